"""The log: torn tails are cut whole, damage before a sound record is never passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import grid.storage.log as log_module
from grid.errors import WriteFailed
from grid.storage.log import Log, Record

SEGMENT = 8192


def written(folder: Path, bodies: list[bytes]) -> Log:
    log = Log(folder, SEGMENT)
    list(log.recover())
    for number, body in enumerate(bodies):
        log.append({"kind": "group", "number": number}, [body])
    return log


def recovered(folder: Path) -> tuple[Log, list[Record]]:
    log = Log(folder, SEGMENT)
    return log, list(log.recover())


def numbers(records: list[Record]) -> list[int]:
    return [record.header["number"] for record in records if record.fault is None]


def test_what_append_returned_from_is_there_in_order_over_segments(tmp_path: Path) -> None:
    written(tmp_path, [bytes([n]) * 700 for n in range(40)]).close()
    log, records = recovered(tmp_path)
    assert numbers(records) == list(range(40))
    assert [bytes(record.body or b"")[:1] for record in records] == [bytes([n]) for n in range(40)]
    assert len(log.segments()) > 2
    assert log.next_sequence == 41


def test_a_tail_torn_at_any_byte_is_cut_whole_and_the_log_goes_on(tmp_path: Path) -> None:
    written(tmp_path / "whole", [b"first", b"second" * 20]).close()
    segment = next((tmp_path / "whole").glob("*.log"))
    raw = segment.read_bytes()
    start = raw.find(b"PGL2"[::-1], 8)
    end = len(raw.rstrip(b"\0"))
    for cut in range(start, end):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / segment.name).write_bytes(raw[:cut] + bytes(len(raw) - cut))
        log, records = recovered(folder)
        # In its end mark it is torn behind all that counts: wholly there, as good as acknowledged.
        kept = [0, 1] if cut >= end - 8 else [0]
        assert numbers(records) == kept, f"torn at byte {cut}"
        log.append({"kind": "group", "number": 7}, [b"after"])
        log.close()
        assert numbers(recovered(folder)[1]) == [*kept, 7], f"torn at byte {cut}"


def test_a_flipped_bit_anywhere_in_the_last_record_is_told_not_cut(tmp_path: Path) -> None:
    """It was written whole, so it may have been acknowledged."""
    written(tmp_path / "whole", [b"first", b"second" * 20]).close()
    segment = next((tmp_path / "whole").glob("*.log"))
    raw = segment.read_bytes()
    start, end = raw.find(b"PGL2"[::-1], 8), len(raw.rstrip(b"\0"))
    for at in range(start, end - 8):
        folder = tmp_path / f"flip-{at}"
        folder.mkdir()
        (folder / segment.name).write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        records = recovered(folder)[1]
        assert numbers(records) == [0], f"flipped at byte {at}"
        assert records[-1].fault is not None, f"flipped at byte {at}"


def test_when_the_loss_is_accepted_reading_goes_on_behind_the_damage(tmp_path: Path) -> None:
    written(tmp_path, [b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100]).close()
    segment = next(tmp_path.glob("*.log"))
    raw = bytearray(segment.read_bytes())
    raw[raw.find(b"b" * 100) - 10] ^= 1  # a header
    raw[raw.find(b"d" * 100) - 10] ^= 1  # and that of the last
    segment.write_bytes(raw)
    log = Log(tmp_path, SEGMENT)
    records = list(log.recover(accept_loss=True))
    assert numbers(records) == [0, 2]
    assert sum(record.fault is not None for record in records) == 2
    log.append({"kind": "group", "number": 9}, [b"after"])
    log.close()
    assert numbers(list(Log(tmp_path, SEGMENT).recover(accept_loss=True))) == [0, 2, 9]


def test_a_flipped_bit_in_a_body_before_a_sound_record_is_told_with_file_and_offset(tmp_path: Path) -> None:
    written(tmp_path, [b"a" * 100, b"b" * 100, b"c" * 100]).close()
    segment = next(tmp_path.glob("*.log"))
    raw = bytearray(segment.read_bytes())
    raw[raw.find(b"b" * 100) + 5] ^= 1
    segment.write_bytes(raw)
    _, records = recovered(tmp_path)
    assert numbers(records) == [0, 2]
    (damaged,) = [record for record in records if record.fault is not None]
    assert damaged.fault is not None
    assert damaged.header["number"] == 1
    assert damaged.fault.file == str(segment)
    assert damaged.fault.offset == damaged.offset > 0


def test_a_flipped_bit_in_a_header_before_a_sound_record_ends_the_reading(tmp_path: Path) -> None:
    written(tmp_path, [b"a" * 100, b"b" * 100, b"c" * 100]).close()
    segment = next(tmp_path.glob("*.log"))
    raw = bytearray(segment.read_bytes())
    raw[raw.find(b"b" * 100) - 10] ^= 1
    segment.write_bytes(raw)
    _, records = recovered(tmp_path)
    assert numbers(records) == [0]
    assert records[-1].fault is not None
    assert not records[-1].header


@pytest.mark.parametrize("size", [0, 1, 7, 8, 5000])
def test_records_of_any_size_come_back(tmp_path: Path, size: int) -> None:
    written(tmp_path, [b"x" * size] * 3).close()
    assert [len(record.body or b"") for record in recovered(tmp_path)[1]] == [size] * 3


def torn_in_the_middle(folder: Path, *, is_synced_between: bool) -> tuple[Log, list[Record]]:
    """Three records, the second without one of its blocks, as when the power goes before that block was written."""
    log = Log(folder, 1 << 20)
    list(log.recover())
    for number in range(3):
        if number == 2 and is_synced_between:
            log.sync()
        log.append({"kind": "group", "number": number}, [bytes([number + 1]) * 20_000], is_durable=False)
    log.close()
    segment = log.segments()[0]
    raw = segment.read_bytes()
    segment.write_bytes(raw[: 6 * 4096] + bytes(4096) + raw[7 * 4096 :])
    return recovered(folder)


def test_a_torn_record_is_cut_with_what_lies_behind_it_when_they_were_never_synced(tmp_path: Path) -> None:
    log, records = torn_in_the_middle(tmp_path, is_synced_between=False)
    assert (numbers(records), [record.fault for record in records]) == ([0], [None])
    log.append({"kind": "group", "number": 7}, [b"after"])
    log.close()
    assert numbers(recovered(tmp_path)[1]) == [0, 7]


def test_a_record_that_was_synced_is_damaged_not_torn_whatever_lies_behind_it(tmp_path: Path) -> None:
    _, records = torn_in_the_middle(tmp_path, is_synced_between=True)
    assert (numbers(records), [record.fault is None for record in records]) == ([0, 2], [True, False, True])


def test_after_an_append_that_broke_off_for_any_reason_nothing_is_written_over_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tmp_path, [b"first"])

    def written_and_broken(*arguments: Any) -> None:
        write_all(*arguments)
        raise MemoryError

    write_all = log_module._write_all
    monkeypatch.setattr(log_module, "_write_all", written_and_broken)
    with pytest.raises(WriteFailed, match="MemoryError"):
        log.append({"kind": "group", "number": 1}, [b"second"])
    monkeypatch.undo()
    with pytest.raises(WriteFailed):
        log.append({"kind": "group", "number": 2}, [b"third"])
    log.close()
    assert numbers(recovered(tmp_path)[1]) == [0, 1]

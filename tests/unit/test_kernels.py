"""Kernels beside their naive twins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash
from pyroaring import BitMap, BitMap64

from grid.kernels.hashing import hash_strings
from grid.kernels.scalars import decode_number, decode_time, encode_number, encode_time
from grid.state.bitmaps import cardinality, mask_to_portable, merge_partitions, ordinals
from grid.state.days import calendar_part, local_times
from grid.state.dictionary import Dictionary, Strings
from grid.state.memory import Space
from grid.state.users import Users
from grid.warming import kernels


@pytest.mark.parametrize("size", [*range(20), 31, 32, 33, 64, 65, 96, 97, 128, 129, 200, 240, 241, 256, 511, 1024])
def test_our_hash_is_xxh3_64(size: int) -> None:
    raw = os.urandom(size)
    ours = hash_strings(np.frombuffer(raw, np.uint8), np.array([size], np.uint32))[0]
    assert int(ours) == xxhash.xxh3_64_intdigest(raw)


def test_number_codes_keep_order_and_are_never_zero() -> None:
    numbers = np.array([-1e300, -5.5, -1e-300, -0.0, 0.0, 1e-300, 2.0, 1e300])
    codes = encode_number(numbers)
    assert (np.diff(codes.astype(object)) >= 0).all()
    assert (codes != 0).all()
    assert (decode_number(codes) == numbers).all()


def test_time_codes_keep_order() -> None:
    times = np.array([-(2**50), -1, 0, 1, 2**52])
    assert (decode_time(encode_time(times)) == times).all()
    assert (np.diff(encode_time(times).astype(object)) > 0).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 1.0])
def test_a_mask_becomes_the_same_bitmap_as_its_rows(share: float) -> None:
    mask = np.random.default_rng(1).random(200_000) < share
    portable = mask_to_portable(mask)
    assert BitMap.deserialize(portable) == BitMap(np.flatnonzero(mask))
    assert cardinality(portable) == mask.sum()
    assert (ordinals(portable) == np.flatnonzero(mask)).all()


def test_partitions_merge_to_one_64_bit_bitmap_of_handles() -> None:
    parts = {3: np.array([1, 5]), 0: np.array([7]), 9: np.array([], dtype=int)}
    blobs = {}
    for partition, rows in parts.items():
        mask = np.zeros(10, dtype=bool)
        mask[rows] = True
        blobs[partition] = mask_to_portable(mask)
    merged = BitMap64.deserialize(merge_partitions(blobs))
    assert sorted(merged) == sorted(partition << 32 | int(row) for partition, rows in parts.items() for row in rows)


def test_users_keep_ordinals_through_growth_and_erasure() -> None:
    users = Users(3, 5, Space(slots_max=1 << 16, list_words_max=1 << 16, id_bytes_max=1 << 20, partition_pages_max=16))
    names = Strings.of([f"user-{n}" for n in range(9000)])
    hashes = names.hashes()
    partitions = (hashes % np.uint64(3)).astype(np.uint16)
    slots = users.resolve(names, hashes, partitions)
    assert len(set(slots.tolist())) == 9000
    assert (users.find(names.data, names.ends, hashes, partitions) == slots).all()
    gone = slots[::100]
    users.erase(gone)
    found = users.find(names.data, names.ends, hashes, partitions)
    assert (found[::100] == -1).all()
    again = users.resolve(names, hashes, partitions)
    assert not set(again[::100].tolist()) & set(gone.tolist()), "an ordinal was used again"
    users.check()


def test_a_dictionary_gives_dense_codes_and_survives_skipped_ones() -> None:
    dictionary = Dictionary(100)
    assert dictionary.add(Strings.of(["a", "鞋", "b"])) == 0
    assert dictionary.find_all(Strings.of(["b", "none", "鞋"])).tolist() == [2, -1, 1]
    dictionary.add_at(Strings.of(["late"]), 7)
    assert dictionary.find("late").tolist() == [7]
    assert dictionary.words_of(np.array([7, 0])).to_list() == ["late", "a"]
    dictionary.add_at(Strings.of(["late", "later"]), 7)
    assert dictionary.find("later").tolist() == [8]


def test_local_time_follows_the_clock_changes() -> None:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("America/New_York")
    times = np.arange(1_699_000_000_000, 1_712_000_000_000, 3_700_000_000)
    for moment, local in zip(times.tolist(), local_times(times, "America/New_York").tolist(), strict=True):
        wall = datetime.fromtimestamp(moment / 1000, UTC).astimezone(zone).replace(tzinfo=UTC)
        assert round(wall.timestamp() * 1000) == local
    assert calendar_part("year", times[:1], "UTC").tolist() == [2023]
    assert calendar_part("month", times[:1], "UTC").tolist() == [11]
    assert calendar_part("day", times[:1], "UTC").tolist() == [3]


@pytest.mark.long
def test_setting_up_compiles_every_kernel_so_that_no_shard_stops_to_compile(tmp_path: Path) -> None:
    # A cache of its own: in the one that all share, other tests compile what set-up forgot.
    subprocess.run([sys.executable, "-m", "grid.warming"], env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, check=True, capture_output=True, timeout=400)
    assert len({path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}) == kernels()

"""The groups a shard committed, in order, on disk. Owns segments and checksums; knows nothing of columns.

A segment is 64 MB, preallocated and zeroed, named by the sequence of its first record. A record is a 40-byte prefix (magic, header
bytes, body bytes, sequence, checksum of the header and these, checksum of the body), a msgpack header, the body, an end mark that
tells its sequence, padding to 8.
Invariant: a record that `append` returned from survives kill -9, and with the next `sync` a loss of power; each says up to which record
the log was synced when it was written.
A bad record is torn when no sound one behind it was written after it was synced, and its end mark is missing (the process died in the
write) or one of its 4 KiB blocks is zero (the power went before that block was written): it was never acknowledged, nor anything behind
it, and is cut with that. Otherwise it was written whole and damaged since: it may have been acknowledged, so it is not cut.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import xxhash

from grid.errors import LogCorrupt, WriteFailed
from grid.failpoints import failpoint
from grid.storage.files import replace_file, sync_folder

SEGMENT_BYTES = 64 << 20
_MAGIC = 0x50474C32  # "PGL2"
_END_MARK = 0x656E64206F662072  # "end of r"
_BLOCK_BYTES = 4096
_PREFIX = struct.Struct("<IIQQQQ")
_WRITEV_MAX = 1000


@dataclass(slots=True)
class Record:
    """One record as read back. `body` is None when only its header is sound; `fault` then says where the damage is."""

    sequence: int
    header: dict[str, Any]
    body: memoryview | None
    file: str
    offset: int
    fault: LogCorrupt | None = None


class Log:
    """The segments of one folder. `append` is called from one thread at a time; the caller keeps the order."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._segment_bytes = folder, segment_bytes
        self._descriptor, self._path = -1, folder
        self._offset = 0
        self._size = 0
        self.next_sequence = 1
        self._synced = 0  # the last record that is known to be durable
        self._failed: WriteFailed | None = None

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, header: dict[str, Any], body: list[bytes | memoryview], *, is_durable: bool = True) -> int:
        """Write one record, fsync it, return its sequence. Raises WriteFailed: the outcome is then unknown and nothing may follow."""
        sequence = self.next_sequence
        buffers = _framed(sequence, {**header, "synced": self._synced}, body)
        nbytes = sum(len(buffer) for buffer in buffers)
        with self._writing(self._path):
            if self._descriptor < 0 or self._offset + nbytes + _PREFIX.size > self._size:
                self._open_segment(sequence, nbytes)
            failpoint("log.before_write")
            at = self._offset
            for first in range(0, len(buffers), _WRITEV_MAX):
                part = buffers[first : first + _WRITEV_MAX]
                _write_all(self._descriptor, part, at)
                at += sum(len(buffer) for buffer in part)
            failpoint("log.written")
        self._offset += nbytes
        self.next_sequence = sequence + 1
        if is_durable:
            self.sync()
        return sequence

    def sync(self) -> None:
        """Fsync what was appended without it. Raises WriteFailed."""
        last = self.next_sequence - 1
        with self._writing(self._path):
            if self._descriptor >= 0:
                os.fdatasync(self._descriptor)
            failpoint("log.fsynced")
            self._synced = last

    @property
    def room(self) -> int:
        """Bytes that still go into the open segment."""
        return self._size - self._offset - _PREFIX.size

    def roll(self) -> None:
        """Close the segment that is being written and begin the next, so that history and erasure reach all that was logged."""
        if self._descriptor >= 0 and self._offset > 0:
            with self._writing(self._folder):
                self._open_segment(self.next_sequence, 0)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What fails in it is a WriteFailed, and so is all that follows: not only what the disk fails, as another record would overwrite this one's place."""
        if self._failed is not None:
            raise self._failed
        try:
            yield
        except BaseException as error:
            self._failed = WriteFailed(str(path), str(error) or repr(error))
            raise self._failed from error

    def prepare_segment(self) -> None:
        """Make the file of the next segment ahead, so that `roll` has less to wait for. From any thread."""
        with contextlib.suppress(OSError):  # `roll` then makes its own, and tells what is wrong
            self._make_file(self._spare, self._segment_bytes)

    @property
    def _spare(self) -> Path:
        return self._folder / "spare"

    @staticmethod
    def _make_file(path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path_of(self, sequence: int) -> Path:
        return self._folder / f"{sequence:016d}.log"

    def _open_segment(self, sequence: int, nbytes: int) -> None:
        """Start a segment: allocated and zeroed up front, so that a later fdatasync writes no metadata."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._offset)  # what was not used of it
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._synced = self.next_sequence - 1
        size, path = max(self._segment_bytes, nbytes + 2 * _PREFIX.size), self._path_of(sequence)
        if not (self._spare.exists() and self._spare.stat().st_size >= size):
            self._make_file(self._spare, size)
        size = self._spare.stat().st_size
        os.link(self._spare, path)  # unlike a rename it fails when there is a segment of that name
        self._spare.unlink()
        descriptor = os.open(path, os.O_RDWR)
        sync_folder(self._folder)
        self._keep_head(sequence)
        self._path, self._descriptor, self._offset, self._size = path, descriptor, 0, size

    def close(self) -> None:
        """Close the open segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- segments -----------------------------------------------------------------------------------------------------

    def segments(self) -> list[Path]:
        """Segment files, oldest first."""
        return sorted(self._folder.glob("*.log"))

    def first_sequence(self, segment: Path) -> int:
        """Sequence of the first record of a segment."""
        return int(segment.stem)

    @property
    def oldest_sequence(self) -> int:
        """Of the first record that is there, or would be."""
        return min((self.first_sequence(segment) for segment in self.segments()), default=1)

    def remove(self, segment: Path) -> None:
        """Delete a segment that history and checkpoints cover."""
        failpoint("segment.before_drop")
        segment.unlink()
        sync_folder(self._folder)

    def bytes_from(self, sequence: int) -> int:
        """Bytes of records in segments that reach `sequence` or later: what a recovery would read."""
        segments = self.segments()
        total = 0
        for number, segment in enumerate(segments):
            is_last = number + 1 == len(segments)
            if is_last or self.first_sequence(segments[number + 1]) > sequence:
                with contextlib.suppress(FileNotFoundError):  # dropped meanwhile by a thread
                    total += self._offset if is_last and self._descriptor >= 0 else segment.stat().st_size
        return total

    def closed(self) -> list[tuple[Path, int]]:
        """(segment, its last sequence) of those that are written no more, oldest first."""
        return [(segment, self.first_sequence(following) - 1) for segment, following in pairwise(self.segments())]

    # --- reading ------------------------------------------------------------------------------------------------------

    def recover(self, first_sequence: int = 1, *, accept_loss: bool = False) -> Iterator[Record]:
        """Every record from `first_sequence` on, in order (earlier segments are not read), then leave the log ready to append.

        A torn last record is cut. Damage is yielded as a Record with `fault`; when its header is damaged too, that ends the iteration,
        as nothing after it can be trusted, unless the loss is accepted: then it goes on with the next sound record.
        """
        segments = self.segments()
        reached = first_sequence  # the sequence that must come next
        for number, segment in enumerate(segments):
            is_last = number + 1 == len(segments)
            if not is_last and self.first_sequence(segments[number + 1]) <= first_sequence:
                continue
            if self.first_sequence(segment) > max(reached, self.next_sequence):
                yield self._missing(max(reached, self.next_sequence), self.first_sequence(segment) - 1)
                if not accept_loss:
                    return
            self.next_sequence = max(self.next_sequence, self.first_sequence(segment))
            end, offset = 0, 0
            while offset >= 0:
                records, offset = read_segment(segment, offset), -1
                for record in records:
                    if record.fault is not None and is_last and _is_torn(segment, record.offset, self.next_sequence):
                        self._cut(segment, record.offset)
                        break
                    if record.sequence >= first_sequence or record.fault is not None:
                        yield record
                    if record.header:
                        self.next_sequence = record.sequence + 1
                        end = _end_of(record)
                    elif not accept_loss:
                        return
                    else:
                        offset = _next_sound(segment.read_bytes(), record.offset)
                        if offset < 0 and is_last:
                            self._cut(segment, record.offset)
            if is_last:
                self._path, self._descriptor = segment, os.open(segment, os.O_RDWR)
                self._offset, self._size = end, os.fstat(self._descriptor).st_size
                os.fdatasync(self._descriptor)  # what is replayed holds, whether or not the last life came to it
                self._synced = self.next_sequence - 1
        head = self._head()
        if head > max([0, *(self.first_sequence(segment) for segment in segments)]):
            yield self._missing(head, 0)
            self.next_sequence = max(self.next_sequence, head)
            if accept_loss:
                self._keep_head(0)

    def _head(self) -> int:
        """The first sequence of the newest segment that was ever begun: its file must be there."""
        try:
            raw = (self._folder / "HEAD").read_bytes()
        except FileNotFoundError:
            return 0
        # Damaged itself, it says nothing: that is one fault, a missing file would be a second.
        return int.from_bytes(raw[:8], "little") if xxhash.xxh3_64_digest(raw[:8]) == raw[8:] else 0

    def _keep_head(self, sequence: int) -> None:
        self.write_head(self._folder, sequence)

    @staticmethod
    def write_head(folder: Path, sequence: int) -> None:
        """Say in a folder which segment is its newest, so that a start misses it when it is gone; 0: none."""
        raw = sequence.to_bytes(8, "little")
        replace_file(folder / "HEAD", raw + xxhash.xxh3_64_digest(raw))

    def _missing(self, first: int, last: int) -> Record:
        what = f"records {first} to {last}" if last else f"the records from {first} on"
        path = str(self._path_of(first))
        return Record(0, {}, None, path, 0, LogCorrupt(path, 0, f"the file is missing, and with it {what}"))

    def _cut(self, segment: Path, offset: int) -> None:
        """Zero a torn record, durably: its bytes must not look like one again."""
        descriptor = os.open(segment, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            zeros = bytes(1 << 20)
            for at in range(offset, size, len(zeros)):
                os.pwrite(descriptor, zeros[: size - at], at)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_segment(segment: Path, offset: int = 0) -> Iterator[Record]:
    """Records of one segment from an offset up to its zeroed rest. Damage is yielded as a Record with `fault`."""
    raw = _mapped(segment)
    while offset + _PREFIX.size <= len(raw) and any(raw[offset : offset + _PREFIX.size]):
        record = _record_at(raw, offset, str(segment))
        yield record
        if not record.header:
            return
        offset = _end_of(record)


def _mapped(segment: Path) -> memoryview:
    """A segment's bytes, read from disk where they are looked at: most of a segment that a backfill or recovery skips never is."""
    with segment.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _record_at(raw: memoryview, offset: int, file: str) -> Record:
    magic, header_bytes, body_bytes, sequence, header_sum, body_sum = _PREFIX.unpack_from(raw, offset)
    start = offset + _PREFIX.size
    body_start = start + header_bytes
    if magic != _MAGIC or body_start > len(raw):
        return Record(0, {}, None, file, offset, LogCorrupt(file, offset, "no record starts here"))
    header = raw[start:body_start]
    if _header_sum(header_bytes, body_bytes, sequence, body_sum, header) != header_sum:
        return Record(0, {}, None, file, offset, LogCorrupt(file, offset, "the header does not match its checksum"))
    decoded = msgpack.unpackb(header, strict_map_key=False)
    decoded["_bytes"] = (header_bytes, body_bytes)
    body = raw[body_start : body_start + body_bytes]
    if len(body) != body_bytes or xxhash.xxh3_64_intdigest(body) != body_sum:
        return Record(sequence, decoded, None, file, offset, LogCorrupt(file, offset, f"the body of record {sequence} does not match its checksum"))
    return Record(sequence, decoded, body, file, offset)


def _end_of(record: Record) -> int:
    header_bytes, body_bytes = record.header["_bytes"]
    end = record.offset + _PREFIX.size + header_bytes + body_bytes + len(_end_mark(0))
    return int(-(-end // 8) * 8)


def _end_mark(sequence: int) -> bytes:
    return (_END_MARK ^ sequence).to_bytes(8, "little")


def _is_torn(segment: Path, offset: int, sequence: int) -> bool:
    """Whether the damaged record at `offset`, which should be `sequence`, was never written whole. What was synced was, so it is not when a
    sound record behind it says that it was synced, or says nothing: before there were such words each record was synced before the next."""
    raw = segment.read_bytes()
    at = _next_sound(raw, offset)
    while at >= 0:
        record = _record_at(memoryview(raw), at, "")
        if record.header.get("synced", sequence) >= sequence:
            return False
        at = _next_sound(raw, at)
    end = raw.find(_end_mark(sequence), offset)
    first = -(-offset // _BLOCK_BYTES) * _BLOCK_BYTES
    return end < 0 or any(not any(raw[at : at + _BLOCK_BYTES]) for at in range(first, end - _BLOCK_BYTES, _BLOCK_BYTES))


def _next_sound(raw: bytes, offset: int) -> int:
    """Where the next sound record of a segment lies behind a damaged one; -1: there is none."""
    magic = _MAGIC.to_bytes(4, "little")
    at = raw.find(magic, offset + 8)
    while at >= 0:
        if at + _PREFIX.size <= len(raw) and _record_at(memoryview(raw), at, "").fault is None:
            return at
        at = raw.find(magic, at + 1)
    return -1


def _header_sum(header_bytes: int, body_bytes: int, sequence: int, body_sum: int, header: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(struct.pack("<IQQQ", header_bytes, body_bytes, sequence, body_sum))
    digest.update(header)
    return digest.intdigest()


def _framed(sequence: int, header: dict[str, Any], body: list[bytes | memoryview]) -> list[bytes | memoryview]:
    packed = msgpack.packb(header)
    digest = xxhash.xxh3_64()
    body_bytes = 0
    for part in body:
        digest.update(part)
        body_bytes += len(part)
    body_sum = digest.intdigest()
    prefix = _PREFIX.pack(_MAGIC, len(packed), body_bytes, sequence, _header_sum(len(packed), body_bytes, sequence, body_sum, packed), body_sum)
    padding = bytes(-(_PREFIX.size + len(packed) + body_bytes) % 8)
    return [part for part in (prefix, packed, *body, _end_mark(sequence), padding) if len(part)]


def _write_all(descriptor: int, buffers: list[bytes | memoryview], offset: int) -> None:
    """pwritev until all is written."""
    total = sum(len(buffer) for buffer in buffers)
    written = os.pwritev(descriptor, buffers, offset)
    if written < total:
        rest = b"".join(buffers)[written:]
        while rest:
            n = os.pwrite(descriptor, rest, offset + written)
            written, rest = written + n, rest[n:]

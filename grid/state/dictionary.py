"""Distinct texts of a shard as codes: `category` and `key` values. Codes are dense, never reused; a skipped code has no word.

Invariant: what a code means is decided in the log: a group's record lists the words it added, so that replay gives the same codes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Words

from grid.kernels.hashing import hash_strings
from grid.kernels.ids import compact_codes, find_words, gather_strings, index_words
from grid.kernels.lists import best_entries


def lengths_of(ends: NDArray[Any]) -> NDArray[np.int64]:
    """int64[n]: how long each part is that ends at ends[i]."""
    ends = ends.astype(np.int64)
    return ends - np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])


class Strings:
    """Texts one after another: data uint8[bytes], ends uint32[n] (or int64)."""

    __slots__ = ("data", "ends")

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[Any]) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, texts: list[str]) -> Strings:
        """Pack a list of str."""
        encoded = [text.encode() for text in texts]
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([len(e) for e in encoded], dtype=np.uint32))

    def text(self, number: int) -> str:
        """One of them as str; for messages to people, not for rows."""
        start = int(self.ends[number - 1]) if number else 0
        return self.data[start : int(self.ends[number])].tobytes().decode("utf-8", "replace")

    def __len__(self) -> int:
        return int(self.ends.size)

    def to_list(self) -> list[str]:
        """As str objects; for the distinct words of a dictionary, not for rows."""
        raw = self.data.tobytes()
        bounds = [0, *self.ends.tolist()]
        return [raw[a:b].decode("utf-8", "replace") for a, b in pairwise(bounds)]

    def hashes(self) -> NDArray[np.uint64]:
        """uint64[n]: xxh3_64 of each."""
        return hash_strings(self.data, np.ascontiguousarray(self.ends, dtype=np.uint32))

    def take(self, rows: NDArray[np.integer[Any]]) -> Strings:
        """The texts at `rows`, copied together."""
        return Strings(*gather_strings(self.data, np.ascontiguousarray(self.ends, dtype=np.uint32), rows))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[n]: bytes of each."""
        return lengths_of(self.ends)


class Dictionary(Words):
    """Words to codes and back. Grows by doubling; lookups of many words are one call."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.size = 0
        self._heap = np.zeros(1024, dtype=np.uint8)
        self._ends = np.zeros(64, dtype=np.int64)
        self._hashes = np.zeros(64, dtype=np.uint64)
        self._table = np.zeros(256, dtype=np.int32)
        self._place = np.empty(0, dtype=np.int32)
        self._texts: list[str] = []
        self._text_array: NDArray[Any] = np.empty(0, dtype=object)

    def find_all(self, words: Strings, hashes: NDArray[np.uint64] | None = None) -> NDArray[np.int64]:
        """int64[n]: codes, -1 for unknown words."""
        if hashes is None:
            hashes = words.hashes()
        return find_words(words.data, np.ascontiguousarray(words.ends, dtype=np.int64), hashes, self._table, self._heap, self._ends, self._hashes)

    @property
    def index(self) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]:
        """Table, bytes, ends and hashes of the words, as kernels look them up."""
        return self._table, self._heap, self._ends, self._hashes

    def add(self, words: Strings, first_code: int | None = None) -> int:
        """Enter words that are not there, from `first_code` (default: the next). Returns the first code."""
        first = self.size if first_code is None else max(first_code, self.size)
        heap_used = int(self._ends[self.size - 1]) if self.size else 0
        last = first + len(words)
        self._make_room(last, heap_used + words.data.size)
        self._ends[self.size : first] = heap_used
        self._hashes[self.size : first] = 0
        self._heap[heap_used : heap_used + words.data.size] = words.data
        self._ends[first:last] = words.ends.astype(np.int64) + heap_used
        self._hashes[first:last] = words.hashes()
        self.size = last
        if last * 2 > self._table.size:
            self._table = np.zeros(1 << (last * 4).bit_length(), dtype=np.int32)
            index_words(self._table, self._hashes, 0, last)
        else:
            index_words(self._table, self._hashes, first, last)
        return first

    def add_unknown(self, words: Strings, codes: NDArray[np.int64]) -> None:
        """Enter the words whose code (as `find_all` gave it) is -1, and fill their codes in. The words are distinct."""
        unknown = np.flatnonzero(codes < 0)
        if unknown.size:
            codes[unknown] = self.add(words.take(unknown)) + np.arange(unknown.size)

    def add_at(self, words: Strings, first_code: int) -> None:
        """Enter words as the log numbered them; those already here (a checkpoint was newer) are left alone."""
        known = self.size - first_code
        if known <= 0:
            self.add(words, first_code)
        elif known < len(words):
            start = int(words.ends[known - 1])
            self.add(Strings(words.data[start:], words.ends[known:].astype(np.int64) - start), self.size)

    def _make_room(self, codes: int, nbytes: int) -> None:
        if codes > self._ends.size:
            grown = 1 << (codes - 1).bit_length()
            self._ends = _resized(self._ends, grown)
            self._hashes = _resized(self._hashes, grown)
        if nbytes > self._heap.size:
            self._heap = _resized(self._heap, 1 << (nbytes - 1).bit_length())

    def slice(self, first: int, last: int) -> Strings:
        """The words of codes first..last-1."""
        start = int(self._ends[first - 1]) if first else 0
        ends = self._ends[first:last] - start
        return Strings(self._heap[start : start + (int(ends[-1]) if ends.size else 0)].copy(), ends.copy())

    @property
    def heap(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(uint8, int64[size or more]): the bytes of all words, and where each word's end."""
        return self._heap, self._ends

    @property
    def place(self) -> NDArray[np.int32]:
        """int32[size or more]: all -1, for kernels to number words in; they leave it so."""
        if self._place.size < self.size:
            self._place = np.full(self._ends.size, -1, dtype=np.int32)
        return self._place

    @property
    def used(self) -> NDArray[np.int64]:
        """int64[n]: the codes that have a word."""
        return np.flatnonzero(self._hashes[: self.size])

    def words_of(self, codes: NDArray[Any]) -> Strings:
        """The words of any codes."""
        return Strings(*gather_strings(self._heap, self._ends, codes.astype(np.int64, copy=False)))

    def words_used(self, codes: NDArray[Any]) -> tuple[Strings, NDArray[np.int32]]:
        """(the words that codes use, int32[n] codes renumbered into them)."""
        numbers, used = compact_codes(codes.astype(np.int32, copy=False), np.ones(codes.size, dtype=bool), self.place)
        return self.words_of(used), numbers

    def best(
        self, counts: NDArray[np.int64], keys: NDArray[np.uint32], values: NDArray[np.float64], top: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64]]:
        """Each user's best entries: (counts, keys, values), by value descending, then word ascending by code point."""
        return best_entries(counts, keys, values, top, self._heap, self._ends)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._heap.nbytes + self._ends.nbytes + self._hashes.nbytes + self._table.nbytes

    # --- as the rule language sees it ---------------------------------------------------------------------------------

    def all(self) -> NDArray[Any]:
        """object[size]: every word. Kept; only new words are decoded."""
        if len(self._texts) < self.size:
            self._texts.extend(self.slice(len(self._texts), self.size).to_list())
            self._text_array = np.array(self._texts, dtype=object)
        return self._text_array

    def find(self, word: str) -> NDArray[np.int64]:
        """The code of a word, or none."""
        code = self.find_all(Strings.of([word]))
        return code[code >= 0]


def _resized(array: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.zeros(size, dtype=array.dtype)
    grown[: array.size] = array
    return grown

"""Whether two copies of a partition are the same: digests that do not depend on which codes a shard gave to words.

    a page of a column --codes turned into ranks of the words' hashes--> exact digest: bit for bit the same state
    its users' values as of a moment --floats to 24 bits, entries by word--> digest of values: the same for whoever asks

Exact digests differ where two shards backfilled a feature, each from its own history files in its own order: sums of floats are then rounded otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from grid.engine import Engine
from grid.reading import read_profiles
from grid.state.dictionary import Dictionary
from grid.state.features import Reading
from grid.state.memory import PAGE_ROWS
from grid.storage.copying import PartitionCopy

Codes = NDArray[np.int64]


class Ranked:
    """Turns codes into ranks: of the words that a page uses, by their hashes. `hashes` then says which."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self.hashes = np.empty(0, dtype=np.uint64)

    def __call__(self, codes: Codes) -> Codes:
        words, numbers = self._dictionary.words_used(codes)
        hashes = words.hashes()
        order = np.argsort(hashes)
        ranks = np.empty(hashes.size, dtype=np.int64)
        ranks[order] = np.arange(hashes.size)
        self.hashes = hashes[order]
        return ranks[numbers]


def exact_digests(engine: Engine, copy: PartitionCopy, columns: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(column's key, page of the partition, digest) of a copy of a whole partition, page by page; pages that hold nothing are left out.
    `columns` by their keys on the disk."""
    while copy.copy_next() or copy.dump.pages:
        for (key, number), blob in list(copy.dump.pages.items()):
            del copy.dump.pages[key, number]
            if blob:
                yield key, number, _digest(engine, None if key == "ids" else columns[key], blob)


def _digest(engine: Engine, column: Any, blob: bytes) -> int:
    if column is None or column.dictionary_key is None:
        return xxhash.xxh3_64_intdigest(blob)
    ranked = Ranked(engine.dictionaries[column.dictionary_key])
    digest = xxhash.xxh3_64(column.recoded(blob, ranked))
    digest.update(ranked.hashes.tobytes())
    return digest.intdigest()


def value_digest(engine: Engine, partition: int, number: int, name: str, as_of_ms: int) -> int:
    """Of what the users of one page of a partition have in one attribute or feature."""
    ordinals = np.arange(number * PAGE_ROWS, min((number + 1) * PAGE_ROWS, int(engine.users.next_ordinal[partition])))
    profiles = read_profiles(engine, engine.users.slots_of_ordinals(partition, ordinals), [name], as_of_ms)
    digest = xxhash.xxh3_64(profiles.exists.tobytes())
    for part in _canonical(profiles.reading(name)):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.intdigest()


def _canonical(reading: Reading) -> Iterator[NDArray[np.generic]]:
    """A reading's arrays, such that equal values give equal bytes whatever their codes and order."""
    values = reading.values
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    known = np.ones(values.size if reading.counts is None else reading.counts.size, dtype=bool) if reading.known is None else reading.known
    yield known
    if reading.counts is None:
        values = values[known]
        if reading.dictionary is not None:
            ranked = Ranked(reading.dictionary)
            values = ranked(values.astype(np.int64))
            yield ranked.hashes
        yield values
        return
    yield reading.counts
    assert reading.dictionary is not None
    keys = reading.values if reading.keys is None else reading.keys
    ranked = Ranked(reading.dictionary)
    ranks = ranked(keys.astype(np.int64))
    order = np.lexsort((ranks, np.repeat(np.arange(reading.counts.size), reading.counts)))
    yield ranked.hashes
    yield ranks[order]
    if values.dtype == np.float32:  # of a set they are its keys once more
        yield values[order]

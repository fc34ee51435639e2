"""A partition from one engine into another: the same users at the same ordinals, codes of words turned into the other's.

Codes are a shard's own, so pages of two shards that hold the same users differ where they hold codes; everything else goes as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grid.engine import Engine
from grid.errors import holds
from grid.state.attributes import AttributeColumns
from grid.state.dictionary import Dictionary, Strings
from grid.state.features import FeatureColumns

Codes = NDArray[np.int64]
Columns = FeatureColumns | AttributeColumns


class Turned:
    """Turns a page's codes into numbers of the words that it uses: `words` then says which."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self.words = Strings.of([])

    def __call__(self, codes: Codes) -> Codes:
        used, numbers = np.unique(codes, return_inverse=True)
        self.words = self._dictionary.words_of(used)
        return numbers.astype(np.int64)


def entered(words: Strings, dictionary: Dictionary) -> Codes:
    """int64[words]: a dictionary's code of each; those it lacks are entered, whatever its limit."""
    codes = dictionary.find_all(words)
    dictionary.add_unknown(words, codes)
    return codes


class Transfer:
    """Copies partitions of `source` into `target`. Both have the same catalog and number of partitions; neither serves meanwhile."""

    def __init__(self, source: Engine, target: Engine) -> None:
        holds(source.partitions == target.partitions, "engines with other numbers of partitions", source=source.partitions, target=target.partitions)
        self._source, self._target = source, target
        self._codes: dict[str, Codes] = {}

    def partition(self, partition: int) -> None:
        """All of one partition that the target does not have yet. Features whose past is not whole in the source stay empty."""
        source, target = self._source, self._target
        pages = source.users.pages_of(partition).tolist()
        ids = [source.users.dump_page(page) for page in pages]
        taken = target.users.load_partition(partition, ids, int(source.users.next_ordinal[partition]))
        for name, state in source.features.items():
            if state.is_whole:
                self._copy(state.columns, target.features[name].columns, pages, taken)
        for name, attribute in source.attributes.items():
            self._copy(attribute, target.attributes[name], pages, taken)
        target.users.page_newest_ms[taken] = source.users.page_newest_ms[pages]
        target.users.dirty[taken] = 1
        target.positions[partition] = target.reserved[partition] = source.positions[partition]
        target.received_ms = max(target.received_ms, source.received_ms)
        target.producers.load(partition, source.producers.dump(partition))
        target.erasures.load(partition, source.erasures.dump(partition))

    def shard(self) -> None:
        """What belongs to no partition: event ids, which producers were forgotten, since when features are complete. Once a source."""
        source, target = self._source, self._target
        target.event_ids.merge(source.event_ids)
        target.producers.forgotten_started_ms = max(target.producers.forgotten_started_ms, source.producers.forgotten_started_ms)
        for name, state in source.features.items():
            there = target.features[name]
            there.complete_since_ms = max(there.complete_since_ms, state.complete_since_ms)

    def _copy(self, source: Columns, target: Columns, pages: list[int], taken: list[int]) -> None:
        key = source.dictionary_key
        codes = None if key is None else self._recoded(key)
        for page, there in zip(pages, taken, strict=True):
            blob = source.dump_page(page)
            if blob:
                target.load_page(there, blob if codes is None else target.recoded(blob, codes.__getitem__))
            target.dirty[there] = 1

    def _recoded(self, key: str) -> Codes:
        """int64[words]: the target's code of each word of one of the source's dictionaries; words it lacks are entered."""
        if key not in self._codes:
            words = self._source.dictionaries[key]
            theirs = self._target.dictionaries[key]
            used = words.used
            codes = np.zeros(words.size, dtype=np.int64)
            codes[used] = entered(words.words_of(used), theirs)
            self._codes[key] = codes
        return self._codes[key]

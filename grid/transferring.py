"""A partition from one engine into another: the same users at the same ordinals, codes of words turned into the other's.

Codes are a shard's own, so pages of two shards that hold the same users differ where they hold codes; everything else goes as it is.
`Transfer` has both engines at hand; `packed` and `Arrival` are the two ends of a way that takes bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grid.engine import Engine
from grid.errors import MoveFailed, holds
from grid.kernels.marks import TOUCHED, UNSEEN
from grid.state.attributes import AttributeColumns
from grid.state.dedupe import EventIds
from grid.state.dictionary import Dictionary, Strings
from grid.state.features import FeatureColumns
from grid.storage.checkpoints import PartitionDump

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
        target.users.dirty[taken] = TOUCHED
        facts = {
            "position": int(source.positions[partition]), "received_ms": source.received_ms,
            "producers": source.producers.dump(partition), "erasures": source.erasures.dump(partition),
        }  # fmt: skip
        target.load_facts(partition, facts)

    def shard(self) -> None:
        """What belongs to no partition. Once a source."""
        take_shared(self._target, shared_facts(self._source))

    def _copy(self, source: Columns, target: Columns, pages: list[int], taken: list[int]) -> None:
        key = source.dictionary_key
        codes = None if key is None else self._recoded(key)
        for page, there in zip(pages, taken, strict=True):
            blob = source.dump_page(page)
            if blob:
                target.load_page(there, blob if codes is None else target.recoded(blob, codes.__getitem__))
            target.dirty[there] = TOUCHED

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


def packed(key: str, blob: bytes, columns: Columns | None, dictionaries: dict[str, Dictionary]) -> list[Any]:
    """A page of a column for another shard: [key, bytes, the words that its codes number as data and ends; None where it has no codes]."""
    words_key = None if columns is None else columns.dictionary_key
    if not blob or columns is None or words_key is None:
        return [key, blob, None, None]
    turned = Turned(dictionaries[words_key])
    blob = columns.recoded(blob, turned)
    return [key, blob, turned.words.data.tobytes(), turned.words.ends.astype(np.uint32).tobytes()]


def shared_facts(engine: Engine) -> dict[str, Any]:
    """What belongs to no partition, as plain data: event ids, which producers were forgotten, since when features are complete. Call between groups."""
    return {
        "event_ids": list(engine.event_ids.dump()), "forgotten_started_ms": engine.producers.forgotten_started_ms,
        "complete_since": {name: state.complete_since_ms for name, state in engine.features.items()},
    }  # fmt: skip


def take_shared(engine: Engine, facts: dict[str, Any]) -> None:
    """Add another shard's `shared_facts`."""
    event_ids = EventIds()
    event_ids.load(*facts["event_ids"])
    engine.event_ids.merge(event_ids)
    engine.producers.forgotten_started_ms = max(engine.producers.forgotten_started_ms, facts["forgotten_started_ms"])
    for name, since_ms in facts["complete_since"].items():
        engine.features[name].complete_since_ms = max(engine.features[name].complete_since_ms, since_ms)


class Arrival:
    """Partitions that come into an engine page by page, in any order. Nobody sees them before `settle`."""

    def __init__(self, engine: Engine, columns: dict[str, Any]) -> None:
        self._engine, self._columns = engine, columns
        # As checkpoints take them: what was sent, in codes of ours.
        self.dumps: dict[int, PartitionDump] = {}

    def begin(self, partition: int, facts: dict[str, Any]) -> None:
        """`facts` as a checkpoint's manifest has them. Raises MoveFailed when it has begun already."""
        if partition in self.dumps:
            raise MoveFailed(f"partition {partition} came before")
        self._engine.users.begin_partition(partition, facts["next_ordinal"])
        self.dumps[partition] = PartitionDump(partition, facts, {}, facts["columns"])

    def page(self, partition: int, number: int, parts: list[list[Any]]) -> Iterator[None]:
        """A page, `packed` by column, the ids among them. In steps of about a column each."""
        engine, dump = self._engine, self.dumps[partition]
        by_key = {key: (blob, data, ends) for key, blob, data, ends in parts}
        page = engine.users.load_ids(partition, number, by_key["ids"][0], dump.facts["next_ordinal"])
        engine.users.page_newest_ms[page] = dump.facts["newest_ms"][number]
        for key, (blob, data, ends) in by_key.items():
            columns = self._columns[key]
            if key != "ids" and blob:
                if data is not None:
                    words = Strings(np.frombuffer(data, dtype=np.uint8), np.frombuffer(ends, dtype=np.uint32))
                    blob = columns.recoded(blob, entered(words, engine.dictionaries[columns.dictionary_key]).__getitem__)
                columns.load_page(page, blob)
                yield
            dump.pages[key, number] = blob
        for columns in self._columns.values():
            columns.dirty[page] = UNSEEN  # the disk gets it as it is now

    def settle(self) -> None:
        """The dumps are durable: the partitions are here, each at the position that it is of, ready for what was committed after it."""
        engine = self._engine
        for partition, dump in self.dumps.items():
            engine.load_facts(partition, dump.facts)
            engine.users.end_partition(partition, dump.facts["next_ordinal"])
            engine.arriving[partition] = True
        self.dumps = {}

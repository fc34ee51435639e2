"""The partitions of one shard as one state machine: prepare a group, apply it, read it back. Pure: told the time, touches no disk.

    frames --prepare--> Group (verdicts, positions, words reserved) --log--> durable --apply--> columns --> acknowledgement

Invariant: everything that `apply` does follows from the group alone; whatever could refuse was decided in `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from profilegrid_rules import Expression, compile_rule

from grid.catalog import Catalog, Feature
from grid.errors import MemoryExhausted, PartitionMoved, PartitionUnavailable, ShardLoading
from grid.folding import FoldPlan
from grid.frame import Frame
from grid.group import Group, Judged
from grid.kernels.frames import reach_positions, reserve_positions
from grid.plain import PlainFrames
from grid.producers import BlockReply, Producers
from grid.state.attributes import AttributeColumns, SetAttribute, attribute_columns, attribute_key
from grid.state.dedupe import EventIds
from grid.state.dictionary import Dictionary, Strings, lengths_of
from grid.state.erasures import Erasure, Erasures
from grid.state.features import KEYED, PLAIN, FeatureColumns, SharedState
from grid.state.features.keyed import KeyedColumns
from grid.state.layouts import Workspace
from grid.state.memory import MemoryBudget, Space
from grid.state.rows import Picker, Rows, joined, joined_strings, selected
from grid.state.users import Slots, Users
from grid.verdict import (
    AttributeUpdate,
    Judge,
    Rejection,
    Reserved,
    check_ids,
    check_partitions,
    coded_properties,
    judge_attributes,
    judge_events,
    reserve_words,
    shown,
)  # fmt: skip

if TYPE_CHECKING:
    from grid.flat import FlatFields

EMPTY_CATALOG = Catalog()
# Of a new user: entry in the id table at half load, reference, ordinal; of an attribute: value and presence.
USER_BYTES, ATTRIBUTE_BYTES = 48, 9


class PageCopier(Protocol):
    """A checkpoint that is being copied: it must see pages before they change."""

    def before(self, slots: Slots) -> None:
        """Rows of these slots are about to change."""


@dataclass(slots=True)
class Reply:
    """What the sender of a frame is told. Rejections count rows of the frame."""

    accepted: int
    duplicates: int
    rejections: list[Rejection]


@dataclass(slots=True)
class FeatureState:
    """A feature's columns and how rows are picked for them.

    is_whole           the past is in the columns: checkpoints take them
    is_complete        and a checkpoint has them, so that no crash takes it back: reads and rules may use it
    complete_since_ms  history reached back to events received after then; 0: to the first
    """

    feature: Feature
    columns: FeatureColumns
    picker: Picker
    is_whole: bool = True
    is_complete: bool = True
    percent: int = 100
    complete_since_ms: int = 0


class Engine:
    """All state of the partitions that one shard owns."""

    def __init__(self, *, partitions: int, seed: int = 0, space: Space | None = None) -> None:
        self.partitions = partitions
        self.space = space or Space()
        # Set by whoever watches memory and disk: nothing is admitted until it is None again.
        self.exhausted: MemoryExhausted | None = None
        self.memory: MemoryBudget | None = None
        self.workspace = Workspace()
        self._row_bytes = USER_BYTES
        self.catalog = EMPTY_CATALOG
        self.catalogs: dict[int, Catalog] = {0: EMPTY_CATALOG}
        self.users = Users(partitions, seed, self.space)
        self.producers = Producers(partitions)
        self.event_ids = EventIds()
        self.erasures = Erasures(partitions)
        self.dictionaries: dict[str, Dictionary] = {}
        self.features: dict[str, FeatureState] = {}
        self.flat_fields: dict[tuple[str, ...], FlatFields] = {}  # by the names that were read together
        self.attributes: dict[str, AttributeColumns] = {}
        # Invariant: `reserved` counts blocks prepared, `positions` blocks applied; equal whenever nothing is between log and columns.
        self.reserved = np.zeros(partitions, dtype=np.uint64)
        self.positions = np.zeros(partitions, dtype=np.uint64)
        self.epochs = np.zeros(partitions, dtype=np.uint64)  # 0: not owned
        # On their way: here whole, not yet owned; or still owned, but no write is taken any more.
        self.arriving = np.zeros(partitions, dtype=bool)
        self.sealed = np.zeros(partitions, dtype=bool)
        # With copies elsewhere too: kept here whether or not this one is served.
        self.copied = np.zeros(partitions, dtype=bool)
        # Of the last block applied, where there are several copies: in which epoch it was written.
        self.entry_epochs = np.zeros(partitions, dtype=np.uint64)
        # Up to this position a partition's past came with it from another shard: what our own log has of it counts in history only above.
        self.floors = np.zeros(partitions, dtype=np.uint64)
        self.stopped: dict[int, str] = {}
        self.is_loading = False  # a bulk load has the columns to itself
        self.copying: PageCopier | None = None
        self.received_ms = 0
        self._pickers: dict[tuple[int, str], Picker] = {}
        self._coded: dict[tuple[str, str], str] = {}
        self._plan: FoldPlan | None = None  # of `features` as they are
        self._plain = PlainFrames(self, {})

    @property
    def kept(self) -> NDArray[np.bool_]:
        """bool[P]: the partitions whose state is here: owned, about to be, or a copy."""
        return (self.epochs != 0) | self.arriving | self.copied

    @property
    def users_served(self) -> int:
        """Users that exist in the partitions that are owned."""
        return int((self.users.next_ordinal - self.users.erased)[self.epochs != 0].sum())

    # --- catalog ------------------------------------------------------------------------------------------------------

    def install_catalog(self, catalog: Catalog) -> list[str]:
        """Make `catalog` the one that frames are judged by. Returns the features whose past is missing (none on an empty shard)."""
        self.catalogs[catalog.version] = catalog
        old_timezone, self.catalog, self._plan = self.catalog.timezone, catalog, None
        self._coded = dict(coded_properties(catalog))
        self._plain = PlainFrames(self, self._coded)
        for key in self._coded.values():
            self._dictionary(key, self._limit_of(catalog, key))
        shared = SharedState(self.space, self.dictionaries, catalog.timezone)
        is_empty = not self.users.next_ordinal.any()
        kept, missing = {}, []
        for name, feature in catalog.features.items():
            state = self.features.get(name)
            is_same = state is not None and state.feature.identity == feature.identity
            if state is not None and is_same and (old_timezone == catalog.timezone or not feature.spec.is_windowed):
                state.feature, state.picker = feature, self._picker(catalog, feature)
                kept[name] = state
                continue
            kept[name] = FeatureState(
                feature,
                self._columns(catalog, feature, shared),
                self._picker(catalog, feature),
                is_whole=is_empty,
                is_complete=is_empty,
                percent=100 if is_empty else 0,
            )
            if not is_empty:
                missing.append(name)
        self.features = kept
        for state in kept.values():
            if isinstance(state.columns, KeyedColumns):
                state.columns.limit_keys(catalog.limits.keys_per_user)
        self._install_attributes(catalog)
        self._row_bytes = USER_BYTES + sum(state.columns.row_bytes for state in kept.values()) + ATTRIBUTE_BYTES * len(self.attributes)
        return missing

    def _install_attributes(self, catalog: Catalog) -> None:
        kept = {}
        for name, type_ in catalog.attributes.items():
            columns = self.attributes.get(name)
            if columns is None or columns.type != type_:
                limit = catalog.limits.key_values if type_ == "key" else catalog.limits.category_values
                columns = attribute_columns(name, type_, self._dictionary(attribute_key(name), limit), self.space)
            kept[name] = columns
        self.attributes = kept

    @staticmethod
    def _limit_of(catalog: Catalog, property_name: str) -> int:
        kinds = {properties.get(property_name) for properties in catalog.events.values()}
        return catalog.limits.category_values if "category" in kinds else catalog.limits.key_values

    def _dictionary(self, key: str, limit: int) -> Dictionary:
        dictionary = self.dictionaries.setdefault(key, Dictionary(limit))
        dictionary.size_max = limit
        return dictionary

    @staticmethod
    def _columns(catalog: Catalog, feature: Feature, shared: SharedState) -> FeatureColumns:
        columns = (KEYED if feature.by is not None else PLAIN)[feature.kind](catalog, feature, shared)
        if isinstance(columns, KeyedColumns):
            columns.limit_keys(catalog.limits.keys_per_user)
        return columns

    @staticmethod
    def _picker(catalog: Catalog, feature: Feature) -> Picker:
        where: Expression | None = None
        if feature.where is not None:
            where = compile_rule(feature.where, catalog.where_schema(feature.events), catalog.zone)
        return Picker(catalog, feature, where)

    def reset_feature(self, name: str) -> None:
        """Empty a feature's columns and mark it incomplete: a backfill starts anew."""
        self._plan = None
        feature = self.catalog.features[name]
        shared = SharedState(self.space, self.dictionaries, self.catalog.timezone)
        self.features[name] = FeatureState(
            feature, self._columns(self.catalog, feature, shared), self._picker(self.catalog, feature), is_whole=False, is_complete=False, percent=0
        )

    def forget_users(self) -> None:
        """Empty all columns, as before the first user: for a bulk load that broke off. Nothing else may have used them."""
        self.users, self._plan = Users(self.partitions, self.users.seed, self.space), None
        shared = SharedState(self.space, self.dictionaries, self.catalog.timezone)
        for state in self.features.values():
            state.columns = self._columns(self.catalog, state.feature, shared)
        self.attributes = {}
        self._install_attributes(self.catalog)

    # --- prepare ------------------------------------------------------------------------------------------------------

    def prepare(self, frames: list[Frame], received_ms: int) -> Group:
        """Decide every row of frames that passed `admit`. Reserves positions, dictionary codes and event ids; changes no column."""
        self.received_ms = max(self.received_ms, received_ms)
        judged: list[Judged] = []
        reserved: list[Reserved] = []
        for frame in frames:
            judged.append(self._judge(frame, reserved))
        return Group(self.received_ms, self.catalog.version, judged, reserved)

    def admit(self, frame: Frame) -> None:
        """Raise unless this shard may take the frame now: shape, hash, owner, epoch, memory. Changes nothing."""
        frame.plain = None if self.is_limited else self._plain.told(frame)
        if frame.plain is None:
            frame.check(self.partitions)
            check_partitions(frame, frame.id_hashes, self.partitions)
            self.check_owned(frame.partitions, frame.epochs)
        if self.exhausted is not None:
            raise self.exhausted
        if frame.plain is None:
            self.producers.check_known(frame.producer, frame.producer_started_ms)
            self.producers.applied(frame.producer, frame.batch, frame.partitions)
        if self.memory is not None and frame.kind != "deletes":
            self.memory.draw(frame.rows * self._row_bytes + 2 * frame.text_bytes)

    @property
    def is_limited(self) -> bool:
        """Whether what is owned may yet not be served."""
        return self.is_loading or bool(self.stopped)

    def check_owned(self, partitions: NDArray[np.integer[Any]], epochs: NDArray[np.uint64] | None = None) -> None:
        """Raise PartitionMoved or PartitionUnavailable unless all partitions are served here (in these epochs)."""
        if self.is_loading:
            raise ShardLoading()
        owned = self.epochs[partitions]
        wrong = owned == 0 if epochs is None else (owned != epochs) | (owned == 0)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise PartitionMoved(int(partitions[i]), int(epochs[i]) if epochs is not None else 0, int(owned[i]))
        for partition in self.stopped.keys() & set(partitions.tolist()) if self.stopped else ():
            raise PartitionUnavailable(partition, self.stopped[partition])

    def _judge(self, frame: Frame, reserved: list[Reserved]) -> Judged:
        if frame.plain is not None and (plain := self._plain.entered(frame, frame.plain)) is not None:
            return plain
        fresh = ~self.producers.applied(frame.producer, frame.batch, frame.partitions)
        judge = Judge(frame)
        if not fresh.all():
            judge.good &= np.repeat(fresh, frame.block_rows)
        rows, updates = None, []
        if frame.kind == "events":
            rows = judge_events(judge, self.catalog, self.received_ms)
            self._refuse_crowded(judge, rows)
            self.reserve_properties(judge, rows, reserved)
        elif frame.kind == "attributes":
            updates = judge_attributes(judge, self.catalog)
            self._reserve_attributes(judge, updates, reserved)
        else:
            check_ids(judge)
        duplicate = self._duplicates(judge)
        positions = np.empty(frame.partitions.size, dtype=np.uint64)
        reserve_positions(self.reserved, frame.partitions, fresh, positions)
        accepted = judge.good & ~duplicate
        judged = Judged(frame, fresh, accepted, duplicate, judge.rejections, positions, rows, updates)
        self._remember(judged)
        return judged

    def _refuse_crowded(self, judge: Judge, rows: Rows) -> None:
        """Refuse rows that would give a user more keys of a `by` feature than the catalog allows; nobody is near that in most grids."""
        crowded = [state for state in self.features.values() if isinstance(state.columns, KeyedColumns) and state.columns.full]
        if not crowded:
            return
        frame, limit = judge.frame, self.catalog.limits.keys_per_user
        slots = self.users.find(frame.ids.data, frame.ids.ends, frame.id_hashes, frame.row_partitions)
        for state in crowded:
            assert isinstance(state.columns, KeyedColumns)
            bad = np.zeros(frame.rows, dtype=bool)
            bad[state.columns.beyond(slots, rows, state.picker.pick(rows))] = True
            column = next(column for column in frame.columns if column.name == state.feature.by)
            expected = f"one of the {limit} keys that this user has in {state.feature.name}: limits.keys_per_user allows no more"
            judge.refuse(bad, "KEYS_PER_USER_FULL", column.name, lambda row, c=column: shown(c, row), expected)

    def reserve_properties(self, judge: Judge, rows: Rows, reserved: list[Reserved]) -> None:
        """Give codes to the words of properties that features must return; rows whose word no longer fits are refused."""
        for (name, type_), key in self._coded.items():
            column = rows.columns.get((name, type_))
            if column is None or column.words is None:
                continue
            added = reserve_words(judge, name, self.dictionaries[key], key, column.words, column.uses)
            if added is not None:
                reserved.append(added)

    def _reserve_attributes(self, judge: Judge, updates: list[AttributeUpdate], reserved: list[Reserved]) -> None:
        for update in updates:
            if update.type not in ("category", "key", "set") or update.words is None:
                continue
            key = attribute_key(update.name)
            added = reserve_words(judge, update.name, self.dictionaries[key], key, update.words, update.uses)
            if added is not None:
                reserved.append(added)

    def _duplicates(self, judge: Judge) -> NDArray[np.bool_]:
        """Rows whose event id was counted before, when the catalog dedupes."""
        frame, none = judge.frame, np.zeros(judge.frame.rows, dtype=bool)
        if self.catalog.dedupe is None or frame.event_ids is None:
            return none
        rows = np.flatnonzero(judge.good & (frame.event_ids.lengths > 0))
        if rows.size == 0:
            return none
        before = self.event_ids.seen_before(frame.event_ids.hashes(), frame.row_partitions, rows, self.catalog.dedupe, self.received_ms)
        return before & judge.good & (frame.event_ids.lengths > 0)

    def _remember(self, judged: Judged) -> None:
        """Producers' batches and, where a block was not wholly accepted, what they are told."""
        frame = judged.frame
        partitions = frame.partitions[judged.fresh]
        if partitions.size == 0:
            return
        self.producers.mark(frame.producer, frame.batch, partitions, self.received_ms, frame.producer_started_ms)
        if judged.accepted.all():
            return
        starts = frame.block_starts
        for block in np.flatnonzero(judged.fresh).tolist():
            rows = slice(int(starts[block]), int(starts[block]) + int(frame.block_rows[block]))
            if not judged.accepted[rows].all():
                mine = [Rejection(r.row - rows.start, r.reason, r.field, r.value, r.expected) for r in judged.rejections if rows.start <= r.row < rows.stop]
                reply = BlockReply(int(judged.accepted[rows].sum()), int(judged.duplicate[rows].sum()), mine)
                self.producers.keep_reply(frame.producer, frame.batch, int(frame.partitions[block]), reply)

    def reply(self, judged: Judged) -> Reply:
        """The answer to a frame: this group's verdict, and for blocks applied before what was said then."""
        reply = Reply(int(np.count_nonzero(judged.accepted)), int(np.count_nonzero(judged.duplicate)), list(judged.rejections))
        if judged.is_clean or judged.fresh.all():
            return reply
        frame, starts = judged.frame, judged.frame.block_starts
        for block in np.flatnonzero(~judged.fresh).tolist():
            kept = self.producers.reply(frame.producer, frame.batch, int(frame.partitions[block]))
            if kept is None:
                reply.accepted += int(frame.block_rows[block])
                continue
            reply.accepted += kept.accepted
            reply.duplicates += kept.duplicates
            reply.rejections += [Rejection(r.row + int(starts[block]), r.reason, r.field, r.value, r.expected) for r in kept.rejections]
        return reply

    # --- apply --------------------------------------------------------------------------------------------------------

    def apply(self, group: Group) -> Slots:
        """Fold a durable group into the columns. Returns the slots it touched, with repeats. Cannot refuse."""
        return np.concatenate([*self.apply_in_steps(group, 1 << 62), np.empty(0, dtype=np.int64)])

    def apply_in_steps(self, group: Group, rows_max: int) -> Iterator[Slots]:
        """As `apply`, cut at borders of partitions into steps of about `rows_max` rows; what lies between steps sees whole partitions only.

        Groups that are not all events are one step: their order over partitions matters to nobody, but they are small.
        """
        for partition, (epoch, _) in group.entries.items():
            self.entry_epochs[partition] = max(int(self.entry_epochs[partition]), epoch)
        for partition, position in group.starts.items():
            self.positions[partition] = max(int(self.positions[partition]), position)
            self.reserved[partition] = max(int(self.reserved[partition]), position)
        if group.rows <= rows_max or any(judged.frame.kind != "events" for judged in group.judged):
            yield self._apply_whole(group)
            return
        for first, last in _steps(group.judged, self.partitions, rows_max):
            touched = self._apply_events(group.judged, group.catalog_version, first, last)
            for judged in group.judged:
                here = judged.fresh & (judged.frame.partitions >= first) & (judged.frame.partitions < last)
                self._reach(judged, here)
            yield touched

    def _apply_whole(self, group: Group) -> Slots:
        touched = []
        for run in _runs(group.judged):
            if run[0].frame.kind == "events":
                touched.append(self._apply_events(run, group.catalog_version, 0, self.partitions))
            else:
                for judged in run:
                    is_update = judged.frame.kind == "attributes"
                    touched.append(self._apply_attributes(judged) if is_update else self._apply_deletes(judged, group.received_ms))
        for judged in group.judged:
            self._reach(judged, judged.fresh)
        return np.concatenate(touched) if touched else np.empty(0, dtype=np.int64)

    def _reach(self, judged: Judged, blocks: NDArray[np.bool_]) -> None:
        """Blocks are in the columns. The beginning of an epoch behind them may have been so before."""
        reach_positions(self.positions, judged.frame.partitions, blocks, judged.positions)

    def _apply_events(self, run: list[Judged], version: int, first: int, last: int) -> Slots:
        """The accepted events of partitions first..last-1."""
        parts, picks, taken = [], [], []
        for judged in run:
            rows_here = judged.frame.rows_of(first, last)
            is_whole = judged.is_clean and rows_here == slice(0, judged.frame.rows)
            pick = None if is_whole else np.flatnonzero(judged.accepted[rows_here]) + rows_here.start
            if (pick is None or pick.size) and judged.rows is not None:
                parts.append(judged.rows if pick is None or pick.size == judged.frame.rows else selected(judged.rows, pick))
                picks.append((judged.frame, pick))
                taken.append(judged)
        if not parts:
            return np.empty(0, dtype=np.int64)
        rows = joined(parts)
        rows.slots = self._resolve(picks)
        at = 0
        for judged, part in zip(taken, parts, strict=True):
            slots = rows.slots[at : at + part.size].astype(np.uint32)
            judged.slots = slots if judged.slots is None else np.concatenate([judged.slots, slots])
            at += part.size
        self.users.touch(rows.slots, rows.times)
        if version == self.catalog.version:
            self._fold_all(rows)
        else:
            self.fold(rows, version, self.features.values())
        return rows.slots

    def _fold_all(self, rows: Rows) -> None:
        """Fold rows that were decoded under the catalog of now."""
        self._before(rows.slots)
        if self._plan is None:
            self._plan = FoldPlan(self)
        self._plan.fold(rows)

    def fold(self, rows: Rows, version: int, states: Iterable[FeatureState]) -> None:
        """Fold rows that were decoded under catalog `version` into features that existed then as they are now."""
        self._before(rows.slots)
        catalog = self.catalogs[version]
        for state in states:
            picker = state.picker
            if version != self.catalog.version:
                then = catalog.features.get(state.feature.name)
                if then is None or then.identity != state.feature.identity:
                    continue
                picker = self._picker_then(catalog, then)
            picked = picker.pick(rows)
            if picked.size:
                state.columns.fold(rows, picked)

    def _before(self, slots: Slots) -> None:
        if self.copying is not None:
            self.copying.before(slots)

    def _picker_then(self, catalog: Catalog, feature: Feature) -> Picker:
        key = (catalog.version, feature.name)
        if key not in self._pickers:
            self._pickers[key] = self._picker(catalog, feature)
        return self._pickers[key]

    def _resolve(self, picks: list[tuple[Frame, NDArray[np.int64] | None]]) -> Slots:
        """Slots of the picked rows of frames (None: all), in order; unseen ids become users."""
        strings, hashes, partitions = [], [], []
        for frame, pick in picks:
            strings.append(frame.ids if pick is None else frame.ids.take(pick))
            hashes.append(frame.id_hashes if pick is None else frame.id_hashes[pick])
            partitions.append(frame.row_partitions if pick is None else frame.row_partitions[pick])
        if len(picks) == 1:
            return self.users.resolve(strings[0], hashes[0], partitions[0])
        return self.users.resolve(joined_strings(strings), np.concatenate(hashes), np.concatenate(partitions))

    def _apply_attributes(self, judged: Judged) -> Slots:
        """In the order of the rows; a row's columns are independent of each other."""
        pick = np.flatnonzero(judged.accepted)
        if pick.size == 0:
            return np.empty(0, dtype=np.int64)
        slots = np.full(judged.frame.rows, -1, dtype=np.int64)
        slots[pick] = self._resolve([(judged.frame, pick)])
        self._before(slots[pick])
        for update in judged.updates:
            columns = self.attributes.get(update.name)
            if columns is None or columns.type != update.type:
                continue  # replay of an update to an attribute that the catalog has dropped since
            self._update(columns, update, slots, judged)
        return slots[pick]

    def _update(self, columns: AttributeColumns, update: AttributeUpdate, slots: Slots, judged: Judged) -> None:
        set_rows = update.set_rows[judged.accepted[update.set_rows]]
        unset_rows = update.unset_rows[judged.accepted[update.unset_rows]]
        if unset_rows.size and set_rows.size:
            # Both in one frame: of one user's rows only the last counts, so earlier ones of the other sort are dropped.
            rows = np.sort(np.concatenate([set_rows, unset_rows]))[::-1]
            final = rows[np.unique(slots[rows], return_index=True)[1]]
            set_rows, unset_rows = np.intersect1d(set_rows, final), np.intersect1d(unset_rows, final)
        if unset_rows.size:
            columns.clear(slots[unset_rows])
        if not set_rows.size:
            return
        values = update.values
        if update.type in ("category", "key", "set"):
            assert update.words is not None
            values = columns.dictionary.find_all(update.words)[values] if len(update.words) else values
        if isinstance(columns, SetAttribute):
            assert update.ends is not None
            lengths = lengths_of(update.ends)
            picked = np.repeat(np.isin(np.arange(lengths.size), set_rows), lengths)
            columns.set(slots[set_rows], values[picked], np.cumsum(lengths[set_rows]), None)
        else:
            columns.set(slots[set_rows], values[set_rows], None, update.words)

    def _apply_deletes(self, judged: Judged, received_ms: int) -> Slots:
        """Erase users: rows zeroed, ids gone. An id that is unknown is erased already."""
        frame, pick = judged.frame, np.flatnonzero(judged.accepted)
        hashes, partitions = frame.id_hashes, frame.row_partitions
        found = self.users.find(frame.ids.data, frame.ids.ends, hashes, partitions)
        ordinals = self.users.ordinals_of(found)
        positions = np.repeat(judged.positions, frame.block_rows)
        erased = zip(partitions[pick].tolist(), ordinals[pick].tolist(), hashes[pick].tolist(), positions[pick].tolist(), strict=True)
        self.erasures.add([Erasure(partition, ordinal, id_hash, position, received_ms) for partition, ordinal, id_hash, position in erased])
        slots = np.unique(found[pick][found[pick] >= 0])
        self.forget(slots)
        return slots

    def forget(self, slots: Slots) -> None:
        """Erase the users of distinct slots: rows zeroed, ids gone, ordinals taken for ever."""
        if slots.size:
            self._before(slots)
            for state in self.features.values():
                state.columns.clear(slots)
            for attribute in self.attributes.values():
                attribute.clear(slots)
            self.users.erase(slots)

    def ordinals_of_past(self, ids: Strings, partitions: NDArray[np.uint16], positions: NDArray[np.uint64]) -> NDArray[np.int64]:
        """int64[n]: ordinals of the users of logged events, -1 for users that were erased after them."""
        hashes = ids.hashes()
        ordinals = self.users.ordinals_of(self.users.find(ids.data, ids.ends, hashes, partitions))
        return np.where(self.erasures.hides(hashes, positions), -1, ordinals)

    def ordinals_at(self, slots: NDArray[np.uint32]) -> NDArray[np.int64]:
        """int64[n]: ordinals of the users at slots, -1 for users that were erased."""
        where = slots.astype(np.int64)
        return np.where(self.users.exists(where), self.users.ordinals_of(where), -1)

    # --- replay -------------------------------------------------------------------------------------------------------

    def replay(self, group: Group) -> Slots:
        """Apply a group from the log: words first, then the blocks above each partition's position, by the logged verdict."""
        self.learn(group.reserved)
        self.restore(group)
        return self.apply(group)

    def learn(self, reserved: list[Reserved]) -> None:
        """Words that a record added to dictionaries, at the codes that they have."""
        for added in reserved:
            self.dictionaries.setdefault(added.key, Dictionary(1 << 40)).add_at(added.words, added.first_code)

    def adopt(self, group: Group) -> None:
        """Prepare blocks that another shard decided and logged: by its verdict, with codes of ours, which no limit refuses. Then log and apply."""
        self.enter(group)
        self.restore(group)

    def restore(self, group: Group) -> None:
        """Prepare a group that is in the log to be applied: the blocks that are kept here and not in the columns yet; what producers were told."""
        self.received_ms = max(self.received_ms, group.received_ms)
        for judged in group.judged:
            self._restore(judged, self.catalogs[group.catalog_version])

    def enter(self, group: Group) -> None:
        """Give codes of ours, which no limit refuses, to the words of a group that another shard decided; they go to the log with it."""
        group.received_ms = self.received_ms = max(self.received_ms, group.received_ms)
        catalog = self.catalogs[group.catalog_version]
        limits = {key: dictionary.size_max for key, dictionary in self.dictionaries.items()}
        for key in limits:
            self.dictionaries[key].size_max = 1 << 40
        try:
            for judged in group.judged:
                judge = self._decode(judged, catalog)
                judge.good = judged.accepted
                if judged.rows is not None:
                    self.reserve_properties(judge, judged.rows, group.reserved)
                elif judged.updates:
                    self._reserve_attributes(judge, judged.updates, group.reserved)
        finally:
            for key, limit in limits.items():
                self.dictionaries[key].size_max = limit

    def _decode(self, judged: Judged, catalog: Catalog) -> Judge:
        judge = Judge(judged.frame)
        if judged.frame.kind == "events":
            judged.rows = judge_events(judge, catalog, self.received_ms)
        elif judged.frame.kind == "attributes":
            judged.updates = judge_attributes(judge, catalog)
        return judge

    def _restore(self, judged: Judged, catalog: Catalog) -> None:
        """Decode a logged frame; leave only what is kept here and not in the columns yet; remember what its producer was told."""
        frame = judged.frame
        if judged.rows is None and not judged.updates:
            self._decode(judged, catalog)
        judged.fresh = judged.fresh & (judged.positions > self.positions[frame.partitions]) & self.kept[frame.partitions]
        judged.fresh &= ~np.isin(frame.partitions, list(self.stopped)) if self.stopped else True
        here = np.repeat(judged.fresh, frame.block_rows)
        judged.accepted &= here
        judged.duplicate &= here
        judged.is_clean = False
        self._remember(judged)
        if catalog.dedupe is not None and frame.event_ids is not None:
            rows = np.flatnonzero(here & judged.accepted & (frame.event_ids.lengths > 0))
            self.event_ids.seen_before(frame.event_ids.hashes(), frame.row_partitions, rows, catalog.dedupe, self.received_ms)
        fresh = frame.partitions[judged.fresh]
        self.reserved[fresh] = np.maximum(self.reserved[fresh], judged.positions[judged.fresh])

    # --- partitions that come and go ------------------------------------------------------------------------------------

    def load_facts(self, partition: int, facts: dict[str, Any]) -> None:
        """What a partition has beside its pages, as a checkpoint's manifest has it: its position, producers, deletions."""
        self.positions[partition] = self.reserved[partition] = facts["position"]
        self.received_ms = max(self.received_ms, facts["received_ms"])
        self.producers.load(partition, facts["producers"])
        self.erasures.load(partition, facts.get("erasures", []))
        self.event_ids.add(np.frombuffer(facts.get("event_ids", b""), dtype=np.uint64))
        self.floors[partition] = facts.get("floor", 0)
        self.entry_epochs[partition] = facts.get("entry_epoch", 0)

    def drop_in_steps(self, partition: int) -> Iterator[None]:
        """Forget a partition that lives elsewhere now, page by page; nothing may refer to it. Its deletions stay on the list of what is to be
        removed from this disk."""
        pages = self.users.page_table[partition]
        for page in pages[pages > 0].tolist():
            for state in self.features.values():
                state.columns.drop_page(page)
            for attribute in self.attributes.values():
                attribute.drop_page(page)
            yield
        self.users.drop_partition(partition)
        self.producers.drop(partition)
        self.arriving[partition] = self.sealed[partition] = False
        self.floors[partition] = self.positions[partition] = self.reserved[partition] = self.entry_epochs[partition] = 0

    def column_bytes(self) -> dict[str, float]:
        """Memory of the ids and of each feature and attribute: whole pages of fixed columns, arenas as far as they are used."""
        pages = self.users.pages_used
        found = {"@ids": float(self.users.nbytes)}
        for name, state in self.features.items():
            found[name] = float(state.columns.page_bytes * pages + state.columns.nbytes)
        for name, columns in self.attributes.items():
            found[name] = float(columns.page_bytes * pages + columns.nbytes)
        return found

    def check(self) -> None:
        """Raise InvariantBroken unless every structural rule holds. O(users)."""
        self.users.check()


def _steps(judged: list[Judged], partitions: int, rows_max: int) -> Iterator[tuple[int, int]]:
    """(first, last) partitions of steps: as many as hold about `rows_max` rows, at least one."""
    rows = np.zeros(partitions, dtype=np.int64)
    for item in judged:
        rows[item.frame.partitions] += item.frame.block_rows
    first = total = 0
    for partition in range(partitions):
        if total and total + int(rows[partition]) > rows_max:
            yield first, partition
            first, total = partition, 0
        total += int(rows[partition])
    yield first, partitions


def _runs(judged: list[Judged]) -> list[list[Judged]]:
    """Neighbours of one kind together: events fold in one call, other kinds keep their place between them."""
    runs: list[list[Judged]] = []
    for item in judged:
        if runs and runs[-1][0].frame.kind == item.frame.kind == "events":
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs

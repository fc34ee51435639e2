"""Wire messages to the domain and back. Nothing of protobuf travels further in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from profilegrid.columns import Batch, attributes_batch, deletes_batch, events_batch
from profilegrid.results import Part, Profile, Report
from profilegrid.v1 import events_pb2, profiles_pb2

from grid.catalog import Catalog
from grid.engine import Reply
from grid.errors import FieldInvalid, FrameInvalid
from grid.flat import FlatRead
from grid.frame import Column, Frame, FrameKind
from grid.kernels.answers import keyed_column
from grid.kernels.flat import HAS_NULLS, weave
from grid.reading import Profiles
from grid.state.dictionary import Dictionary, Strings
from grid.state.features import Reading

_KINDS: dict[int, FrameKind] = {
    events_pb2.FRAME_KIND_EVENTS: "events", events_pb2.FRAME_KIND_ATTRIBUTES: "attributes", events_pb2.FRAME_KIND_DELETES: "deletes",
}  # fmt: skip
_TYPES: dict[int, Any] = {
    events_pb2.COLUMN_TYPE_INT: ("int", np.int64), events_pb2.COLUMN_TYPE_FLOAT: ("float", np.float64), events_pb2.COLUMN_TYPE_BOOL: ("bool", np.uint8),
    events_pb2.COLUMN_TYPE_TIMESTAMP: ("timestamp", np.int64), events_pb2.COLUMN_TYPE_TEXT: ("text", np.uint32), events_pb2.COLUMN_TYPE_TEXTS: ("texts", np.uint32),
}  # fmt: skip


def _array(field: str, raw: bytes, dtype: Any) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    if len(raw) % size:
        raise FrameInvalid(field, f"{len(raw)} bytes", f"a multiple of {size}")
    return np.frombuffer(raw, dtype=dtype)


def strings(field: str, data: bytes, ends: bytes) -> Strings:
    return Strings(np.frombuffer(data, dtype=np.uint8), _array(f"{field}_ends", ends, np.uint32))


def frame(wire: events_pb2.Frame) -> Frame:
    """A frame of the wire, as views of its bytes. Raises FrameInvalid where lengths cannot be; the engine checks the rest."""
    kind = _KINDS.get(wire.kind)
    if kind is None:
        raise FrameInvalid("kind", str(wire.kind), "FRAME_KIND_EVENTS, FRAME_KIND_ATTRIBUTES or FRAME_KIND_DELETES")
    if wire.batch_number == 0:
        raise FrameInvalid("batch_number", "0", "a number from 1 up")
    has_event_ids = bool(wire.event_id_ends)
    return Frame(
        kind, wire.producer_id, wire.batch_number, wire.catalog_version,
        _array("partitions", wire.partitions, np.uint16), _array("partition_rows", wire.partition_rows, np.uint32),
        _array("epochs", wire.epochs, np.uint64), strings("user_id", wire.user_id_data, wire.user_id_ends),
        _array("times_ms", wire.times_ms, np.int64), list(wire.event_names), _array("events", wire.events, np.uint16),
        [_column(column) for column in wire.columns],
        strings("event_id", wire.event_id_data, wire.event_id_ends) if has_event_ids else None,
        wire.acks != events_pb2.ACKS_FAST, wire.producer_started_ms,
    )  # fmt: skip


def _column(wire: events_pb2.Column) -> Column:
    where = f"columns.{wire.name}"
    if wire.type not in _TYPES:
        raise FrameInvalid(f"{where}.type", str(wire.type), "a column type")
    name, dtype = _TYPES[wire.type]
    presence = np.frombuffer(wire.presence, dtype=np.uint8) if wire.presence else None
    is_text = name in ("text", "texts")
    words = strings(f"{where}.dictionary", wire.dictionary_data, wire.dictionary_ends) if is_text else None
    ends = _array(f"{where}.list_ends", wire.list_ends, np.uint32) if name == "texts" else None
    return Column(wire.name, name, presence, _array(f"{where}.values", wire.values, dtype), words, ends)


def ingest_response(reply: Reply | Report) -> events_pb2.IngestResponse:
    """What the sender of a frame is told."""
    rejected = [events_pb2.RejectedRow(row=r.row, reason=r.reason, field=r.field, value=r.value, expected=r.expected) for r in reply.rejections]
    return events_pb2.IngestResponse(accepted=reply.accepted, duplicates=reply.duplicates, rejected=rejected)


# --- the row form: converted by the client's own code, as `track` is -----------------------------------------------------


def rows_batch(wire: events_pb2.EventRows, now_ms: int) -> Batch:
    """A batch of events that came as rows."""
    rows = [
        (e.user_id, e.name, e.time_ms or now_ms, {name: python_value(name, v) for name, v in e.properties.items()}, e.event_id or None) for e in wire.events
    ]
    return events_batch(rows)


def updates_batch(wire: profiles_pb2.UpdateProfileRequest) -> Batch:
    """A batch of attribute updates that came as rows."""
    updates: list[dict[str, Any]] = []
    for update in wire.updates:
        values: dict[str, Any] = dict.fromkeys(update.unset)
        values.update({name: python_value(name, value) for name, value in update.set.items()})
        updates.append(values)
    return attributes_batch([update.user_id for update in wire.updates], updates)


def deletes(wire: profiles_pb2.DeleteProfileRequest) -> Batch:
    """A batch of erasures."""
    return deletes_batch(list(wire.user_ids))


def python_value(name: str, value: events_pb2.Value) -> Any:
    """The Python value that `track` would have been given."""
    match value.WhichOneof("kind"):
        case "text_list":
            return set(value.text_list.values)
        case "timestamp_ms":
            return np.datetime64(value.timestamp_ms, "ms")
        case None | "null_value":
            return None
        case "number_map" | "ranked_list":
            raise FieldInvalid(name, "a keyed value", "a value of a property or attribute: only features are keyed")
        case kind:
            return getattr(value, kind)


def as_of(request: Any) -> int | None:
    """A request's `as_of_ms`, None when it has none."""
    return request.as_of_ms if request.HasField("as_of_ms") else None


# --- profiles ---------------------------------------------------------------------------------------------------------


def profile_columns(profiles: Profiles, catalog: Catalog) -> profiles_pb2.ProfileColumns:
    """Profiles as columns."""
    return profiles_pb2.ProfileColumns.FromString(profile_bytes(profiles, catalog))


def profile_bytes(profiles: Profiles, catalog: Catalog) -> bytes:
    """A serialized ProfileColumns. Its columns are put together here: of a few users, protobuf's objects would cost more than reading them."""
    rest = profiles_pb2.ProfileColumns(
        exists=profiles.exists.tobytes(), as_of_ms=profiles.as_of_ms, approximate=profiles.approximate, warnings=profiles.warnings
    )
    parts: list[bytes | memoryview] = [rest.SerializeToString()]
    if profiles.flat is None:
        parts += [_column_bytes(name, reading, catalog) for name, reading in profiles.columns.items()]
        return b"".join(parts)
    columns, starts = _flat_bytes(profiles.flat, catalog)
    for piece in profiles.flat.fields.pieces:
        parts.append(_column_bytes(piece, profiles.columns[piece], catalog) if isinstance(piece, str) else columns[starts[piece[0]] : starts[piece[1]]])
    return b"".join(parts)


def _column_bytes(name: str, reading: Reading, catalog: Catalog) -> bytes:
    dictionary = reading.dictionary
    if isinstance(dictionary, Dictionary) and reading.counts is not None and reading.keys is not None and reading.known is None:
        lists = keyed_column(reading.counts, reading.keys, reading.values, dictionary.place, *dictionary.heap, _LIST_FIELDS)
        head = _head(name, catalog.result_types[name], name in catalog.features)
        return b"".join((_wire_prefix(_PROFILE_FIELDS["columns"].number, len(head) + lists.size), head, lists))
    return wire_field(_PROFILE_FIELDS["columns"].number, result_column(name, reading, catalog).SerializeToString())


class _Heads:
    """What answers with as many users and with NULL in the same flat fields have in common: all but the values.

    data uint8, ends int64[2k]: of each field what comes before `known`, or values where there are none, and what comes between the two
    starts: where each column begins in the answer, and where the last ends
    """

    def __init__(self, flat: FlatRead, catalog: Catalog) -> None:
        users, data, ends, self.starts = flat.values.shape[1], b"", [], [0]
        for name, flags in zip(flat.fields.names, flat.said, strict=True):
            known = _wire_prefix(_RESULT_FIELDS["known"].number, users) if flags & HAS_NULLS and users else b""
            values = _wire_prefix(_RESULT_FIELDS["values"].number, users * 8)
            head = _head(name, catalog.result_types[name], name in catalog.features)
            size = len(head) + len(known) + (users if known else 0) + len(values) + users * 8
            first = _wire_prefix(_PROFILE_FIELDS["columns"].number, size) + head
            self.starts.append(self.starts[-1] + len(first) - len(head) + size)
            for piece in (first + known, values) if known else (first + values, b""):
                data += piece
                ends.append(len(data))
        self.data, self.ends = np.array(bytearray(data), dtype=np.uint8), np.array(ends, dtype=np.int64)  # writable, as the kernel was compiled for


def _flat_bytes(flat: FlatRead, catalog: Catalog) -> tuple[memoryview, list[int]]:
    """(serialized columns of flat fields, where each begins and the last ends)."""
    key, sent = (flat.values.shape[1], flat.said), flat.fields.sent
    heads = sent.get(key)
    if heads is None:
        if len(sent) >= _HEADS_MAX:
            sent.clear()
        heads = sent[key] = _Heads(flat, catalog)
    out = np.empty(heads.starts[-1], dtype=np.uint8)
    weave(heads.data, heads.ends, flat.values, flat.known, out)
    return out.data, heads.starts


_HEADS_MAX = 1024
_PROFILE_FIELDS, _RESULT_FIELDS = profiles_pb2.ProfileColumns.DESCRIPTOR.fields_by_name, profiles_pb2.ResultColumn.DESCRIPTOR.fields_by_name
_LIST_FIELDS = np.array([_RESULT_FIELDS[name].number for name in ("list_ends", "keys", "values", "dictionary_data", "dictionary_ends")])


@lru_cache(maxsize=4096)
def _head(name: str, kind: str, is_feature: bool) -> bytes:
    return profiles_pb2.ResultColumn(name=name, type=kind, is_feature=is_feature).SerializeToString()


def wire_field(number: int, payload: bytes) -> bytes:
    """A field of bytes, or a message in one, as protobuf's wire format has it: messages are fields one after another, in any order."""
    return _wire_prefix(number, len(payload)) + payload


@lru_cache(maxsize=4096)
def _wire_prefix(number: int, size: int) -> bytes:
    encoded = bytearray()
    for value in (number << 3 | 2, size):
        while value > 127:
            encoded.append(value & 127 | 128)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)


_VALUE_DTYPES: dict[str, Any] = {"float": np.float64, "int": np.int64, "timestamp": np.int64, "bool": np.uint8}


def result_column(name: str, reading: Reading, catalog: Catalog) -> profiles_pb2.ResultColumn:
    """A field of some users."""
    kind = catalog.result_types[name]
    column = profiles_pb2.ResultColumn(name=name, type=kind, is_feature=name in catalog.features)
    known = None if reading.known is None or reading.known.all() else reading.known
    if known is not None:
        column.known = known.tobytes()
    if kind in _VALUE_DTYPES:
        values = reading.values if known is None else np.where(known, reading.values, 0)
        column.values = (np.rint(values) if kind == "int" and values.dtype.kind == "f" else values).astype(_VALUE_DTYPES[kind], copy=False).tobytes()
        return column
    assert reading.dictionary is not None
    if reading.counts is not None:
        column.list_ends = np.cumsum(reading.counts).astype(np.uint32).tobytes()
    if kind == "text":
        codes = reading.values
        if known is not None:
            if not known.any():
                column.values = np.zeros(codes.size, dtype=np.uint32).tobytes()
                return column
            codes = np.where(known, codes, codes[int(np.argmax(known))])
    else:
        codes = reading.values if kind == "set" or reading.keys is None else reading.keys
    words, numbers = reading.dictionary.words_used(codes)
    column.dictionary_data, column.dictionary_ends = words.data.tobytes(), words.ends.astype(np.uint32).tobytes()
    if kind in ("text", "set"):
        column.values = numbers.tobytes()
    else:
        column.keys, column.values = numbers.tobytes(), reading.values.astype(np.float64).tobytes()
    return column


def wire_profile(profile: Profile, catalog: Catalog) -> profiles_pb2.Profile:
    """A profile in the row form."""

    def values(plain: dict[str, Any]) -> dict[str, events_pb2.Value]:
        return {name: wire_value(value, catalog.result_types[name]) for name, value in plain.items()}

    return profiles_pb2.Profile(
        user_id=profile.user_id, exists=profile.exists, attributes=values(profile.attributes), features=values(profile.features),
        as_of_ms=profile.as_of, approximate=profile.approximate, warnings=profile.warnings,
    )  # fmt: skip


def wire_value(value: Any, kind: str) -> events_pb2.Value:
    """A value in the row form."""
    if value is None:
        return events_pb2.Value(null_value=True)
    if kind == "set":
        return events_pb2.Value(text_list=events_pb2.TextList(values=sorted(value)))
    if kind.startswith("keyed"):
        return events_pb2.Value(number_map=events_pb2.NumberMap(values=value))
    if kind.startswith("ranked"):
        entries = [events_pb2.RankedEntry(key=entry["key"], value=entry["value"]) for entry in value]
        return events_pb2.Value(ranked_list=events_pb2.RankedList(entries=entries))
    field = {"float": "float_value", "int": "int_value", "timestamp": "timestamp_ms", "bool": "bool_value", "text": "text_value"}[kind]
    return events_pb2.Value(**{field: value})


def row_profiles(user_ids: list[str], columns: profiles_pb2.ProfileColumns) -> list[Profile]:
    """Profiles one by one, from the columnar form: one way to read, two to show."""
    return list(Part(np.arange(len(user_ids)), columns).profiles(user_ids))

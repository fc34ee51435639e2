from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Acks(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACKS_UNSPECIFIED: _ClassVar[Acks]
    ACKS_DURABLE: _ClassVar[Acks]
    ACKS_FAST: _ClassVar[Acks]

class FrameKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_KIND_UNSPECIFIED: _ClassVar[FrameKind]
    FRAME_KIND_EVENTS: _ClassVar[FrameKind]
    FRAME_KIND_ATTRIBUTES: _ClassVar[FrameKind]
    FRAME_KIND_DELETES: _ClassVar[FrameKind]

class ColumnType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_TYPE_UNSPECIFIED: _ClassVar[ColumnType]
    COLUMN_TYPE_INT: _ClassVar[ColumnType]
    COLUMN_TYPE_FLOAT: _ClassVar[ColumnType]
    COLUMN_TYPE_BOOL: _ClassVar[ColumnType]
    COLUMN_TYPE_TIMESTAMP: _ClassVar[ColumnType]
    COLUMN_TYPE_TEXT: _ClassVar[ColumnType]
    COLUMN_TYPE_TEXTS: _ClassVar[ColumnType]
ACKS_UNSPECIFIED: Acks
ACKS_DURABLE: Acks
ACKS_FAST: Acks
FRAME_KIND_UNSPECIFIED: FrameKind
FRAME_KIND_EVENTS: FrameKind
FRAME_KIND_ATTRIBUTES: FrameKind
FRAME_KIND_DELETES: FrameKind
COLUMN_TYPE_UNSPECIFIED: ColumnType
COLUMN_TYPE_INT: ColumnType
COLUMN_TYPE_FLOAT: ColumnType
COLUMN_TYPE_BOOL: ColumnType
COLUMN_TYPE_TIMESTAMP: ColumnType
COLUMN_TYPE_TEXT: ColumnType
COLUMN_TYPE_TEXTS: ColumnType

class Column(_message.Message):
    __slots__ = ("name", "type", "presence", "values", "dictionary_data", "dictionary_ends", "list_ends")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_DATA_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_ENDS_FIELD_NUMBER: _ClassVar[int]
    LIST_ENDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ColumnType
    presence: bytes
    values: bytes
    dictionary_data: bytes
    dictionary_ends: bytes
    list_ends: bytes
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ColumnType, str]] = ..., presence: _Optional[bytes] = ..., values: _Optional[bytes] = ..., dictionary_data: _Optional[bytes] = ..., dictionary_ends: _Optional[bytes] = ..., list_ends: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("kind", "producer_id", "batch_number", "catalog_version", "producer_started_ms", "acks", "partitions", "partition_rows", "epochs", "user_id_data", "user_id_ends", "times_ms", "event_names", "events", "columns", "event_id_data", "event_id_ends")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_ROWS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_DATA_FIELD_NUMBER: _ClassVar[int]
    USER_ID_ENDS_FIELD_NUMBER: _ClassVar[int]
    TIMES_MS_FIELD_NUMBER: _ClassVar[int]
    EVENT_NAMES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_DATA_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_ENDS_FIELD_NUMBER: _ClassVar[int]
    kind: FrameKind
    producer_id: bytes
    batch_number: int
    catalog_version: int
    producer_started_ms: int
    acks: Acks
    partitions: bytes
    partition_rows: bytes
    epochs: bytes
    user_id_data: bytes
    user_id_ends: bytes
    times_ms: bytes
    event_names: _containers.RepeatedScalarFieldContainer[str]
    events: bytes
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    event_id_data: bytes
    event_id_ends: bytes
    def __init__(self, kind: _Optional[_Union[FrameKind, str]] = ..., producer_id: _Optional[bytes] = ..., batch_number: _Optional[int] = ..., catalog_version: _Optional[int] = ..., producer_started_ms: _Optional[int] = ..., acks: _Optional[_Union[Acks, str]] = ..., partitions: _Optional[bytes] = ..., partition_rows: _Optional[bytes] = ..., epochs: _Optional[bytes] = ..., user_id_data: _Optional[bytes] = ..., user_id_ends: _Optional[bytes] = ..., times_ms: _Optional[bytes] = ..., event_names: _Optional[_Iterable[str]] = ..., events: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., event_id_data: _Optional[bytes] = ..., event_id_ends: _Optional[bytes] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("text_value", "int_value", "float_value", "bool_value", "timestamp_ms", "text_list", "number_map", "ranked_list", "null_value")
    TEXT_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    TEXT_LIST_FIELD_NUMBER: _ClassVar[int]
    NUMBER_MAP_FIELD_NUMBER: _ClassVar[int]
    RANKED_LIST_FIELD_NUMBER: _ClassVar[int]
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    text_value: str
    int_value: int
    float_value: float
    bool_value: bool
    timestamp_ms: int
    text_list: TextList
    number_map: NumberMap
    ranked_list: RankedList
    null_value: bool
    def __init__(self, text_value: _Optional[str] = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ..., bool_value: _Optional[bool] = ..., timestamp_ms: _Optional[int] = ..., text_list: _Optional[_Union[TextList, _Mapping]] = ..., number_map: _Optional[_Union[NumberMap, _Mapping]] = ..., ranked_list: _Optional[_Union[RankedList, _Mapping]] = ..., null_value: _Optional[bool] = ...) -> None: ...

class TextList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class NumberMap(_message.Message):
    __slots__ = ("values",)
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, float]
    def __init__(self, values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RankedList(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[RankedEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[RankedEntry, _Mapping]]] = ...) -> None: ...

class RankedEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: float
    def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("user_id", "name", "time_ms", "properties", "event_id")
    class PropertiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    name: str
    time_ms: int
    properties: _containers.MessageMap[str, Value]
    event_id: str
    def __init__(self, user_id: _Optional[str] = ..., name: _Optional[str] = ..., time_ms: _Optional[int] = ..., properties: _Optional[_Mapping[str, Value]] = ..., event_id: _Optional[str] = ...) -> None: ...

class EventRows(_message.Message):
    __slots__ = ("events", "producer_id", "batch_number", "acks")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    producer_id: bytes
    batch_number: int
    acks: Acks
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., producer_id: _Optional[bytes] = ..., batch_number: _Optional[int] = ..., acks: _Optional[_Union[Acks, str]] = ...) -> None: ...

class IngestRequest(_message.Message):
    __slots__ = ("rows", "frame")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    rows: EventRows
    frame: Frame
    def __init__(self, rows: _Optional[_Union[EventRows, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class IngestStreamRequest(_message.Message):
    __slots__ = ("rows", "frame")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    rows: EventRows
    frame: Frame
    def __init__(self, rows: _Optional[_Union[EventRows, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class RejectedRow(_message.Message):
    __slots__ = ("row", "reason", "field", "value", "expected")
    ROW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    row: int
    reason: str
    field: str
    value: str
    expected: str
    def __init__(self, row: _Optional[int] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., expected: _Optional[str] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("accepted", "duplicates", "rejected")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    duplicates: int
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedRow]
    def __init__(self, accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., rejected: _Optional[_Iterable[_Union[RejectedRow, _Mapping]]] = ...) -> None: ...

class IngestStreamResponse(_message.Message):
    __slots__ = ("batch_number", "accepted", "duplicates", "rejected", "error_code", "error_reason", "error_message")
    BATCH_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    batch_number: int
    accepted: int
    duplicates: int
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedRow]
    error_code: int
    error_reason: str
    error_message: str
    def __init__(self, batch_number: _Optional[int] = ..., accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., rejected: _Optional[_Iterable[_Union[RejectedRow, _Mapping]]] = ..., error_code: _Optional[int] = ..., error_reason: _Optional[str] = ..., error_message: _Optional[str] = ...) -> None: ...

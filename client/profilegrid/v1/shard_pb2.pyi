from profilegrid.v1 import segments_pb2 as _segments_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluateMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVALUATE_MODE_UNSPECIFIED: _ClassVar[EvaluateMode]
    EVALUATE_MODE_COUNT: _ClassVar[EvaluateMode]
    EVALUATE_MODE_BITMAPS: _ClassVar[EvaluateMode]
    EVALUATE_MODE_EXPLAIN: _ClassVar[EvaluateMode]
EVALUATE_MODE_UNSPECIFIED: EvaluateMode
EVALUATE_MODE_COUNT: EvaluateMode
EVALUATE_MODE_BITMAPS: EvaluateMode
EVALUATE_MODE_EXPLAIN: EvaluateMode

class EvaluateRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "mode", "first_partition", "limit", "last_partition")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    FIRST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LAST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    mode: EvaluateMode
    first_partition: int
    limit: int
    last_partition: int
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., mode: _Optional[_Union[EvaluateMode, str]] = ..., first_partition: _Optional[int] = ..., limit: _Optional[int] = ..., last_partition: _Optional[int] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("partitions", "counts", "positions", "bitmaps", "users", "clauses", "warnings")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    BITMAPS_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    CLAUSES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    partitions: bytes
    counts: bytes
    positions: bytes
    bitmaps: _containers.RepeatedScalarFieldContainer[bytes]
    users: int
    clauses: _containers.RepeatedCompositeFieldContainer[_segments_pb2.ClauseReport]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, partitions: _Optional[bytes] = ..., counts: _Optional[bytes] = ..., positions: _Optional[bytes] = ..., bitmaps: _Optional[_Iterable[bytes]] = ..., users: _Optional[int] = ..., clauses: _Optional[_Iterable[_Union[_segments_pb2.ClauseReport, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ResolveHandlesRequest(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    def __init__(self, handles: _Optional[bytes] = ...) -> None: ...

class ResolveHandlesResponse(_message.Message):
    __slots__ = ("user_id_data", "user_id_ends")
    USER_ID_DATA_FIELD_NUMBER: _ClassVar[int]
    USER_ID_ENDS_FIELD_NUMBER: _ClassVar[int]
    user_id_data: bytes
    user_id_ends: bytes
    def __init__(self, user_id_data: _Optional[bytes] = ..., user_id_ends: _Optional[bytes] = ...) -> None: ...

class TestUsersRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "user_ids")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., user_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class TestUsersResponse(_message.Message):
    __slots__ = ("contained", "warnings")
    CONTAINED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    contained: _containers.RepeatedScalarFieldContainer[bool]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, contained: _Optional[_Iterable[bool]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CountRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "within")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    within: bytes
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., within: _Optional[bytes] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("count", "as_of_ms", "elapsed_ms", "warnings")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    count: int
    as_of_ms: int
    elapsed_ms: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, count: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., elapsed_ms: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "page_size", "page_token")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    page_size: int
    page_token: str
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("user_ids", "next_page_token", "as_of_ms", "warnings")
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    as_of_ms: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_ids: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "within")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    within: bytes
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., within: _Optional[bytes] = ...) -> None: ...

class ExportResponse(_message.Message):
    __slots__ = ("user_id_data", "user_id_ends", "total", "as_of_ms", "warnings")
    USER_ID_DATA_FIELD_NUMBER: _ClassVar[int]
    USER_ID_ENDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    user_id_data: bytes
    user_id_ends: bytes
    total: int
    as_of_ms: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id_data: _Optional[bytes] = ..., user_id_ends: _Optional[bytes] = ..., total: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "size", "seed")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    size: int
    seed: int
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., size: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("user_ids", "total", "as_of_ms", "warnings")
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    total: int
    as_of_ms: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_ids: _Optional[_Iterable[str]] = ..., total: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ContainsRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms", "user_ids")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ..., user_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ContainsResponse(_message.Message):
    __slots__ = ("contained", "as_of_ms", "warnings")
    CONTAINED_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    contained: _containers.RepeatedScalarFieldContainer[bool]
    as_of_ms: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, contained: _Optional[_Iterable[bool]] = ..., as_of_ms: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ...) -> None: ...

class ClauseReport(_message.Message):
    __slots__ = ("text", "matched", "unknown")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    text: str
    matched: int
    unknown: int
    def __init__(self, text: _Optional[str] = ..., matched: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("clauses", "users", "matched", "as_of_ms", "elapsed_ms", "hints", "partitions", "warnings")
    CLAUSES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    clauses: _containers.RepeatedCompositeFieldContainer[ClauseReport]
    users: int
    matched: int
    as_of_ms: int
    elapsed_ms: float
    hints: _containers.RepeatedScalarFieldContainer[str]
    partitions: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, clauses: _Optional[_Iterable[_Union[ClauseReport, _Mapping]]] = ..., users: _Optional[int] = ..., matched: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., elapsed_ms: _Optional[float] = ..., hints: _Optional[_Iterable[str]] = ..., partitions: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetBitmapRequest(_message.Message):
    __slots__ = ("rule", "as_of_ms")
    RULE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    rule: str
    as_of_ms: int
    def __init__(self, rule: _Optional[str] = ..., as_of_ms: _Optional[int] = ...) -> None: ...

class GetBitmapResponse(_message.Message):
    __slots__ = ("bitmap", "cardinality", "as_of_ms", "checksum", "warnings")
    BITMAP_FIELD_NUMBER: _ClassVar[int]
    CARDINALITY_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    bitmap: bytes
    cardinality: int
    as_of_ms: int
    checksum: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bitmap: _Optional[bytes] = ..., cardinality: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., checksum: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

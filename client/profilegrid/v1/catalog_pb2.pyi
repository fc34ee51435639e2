from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApplyCatalogRequest(_message.Message):
    __slots__ = ("source", "force", "dry_run")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    source: str
    force: bool
    dry_run: bool
    def __init__(self, source: _Optional[str] = ..., force: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class CatalogChange(_message.Message):
    __slots__ = ("added", "changed", "losses", "backfills")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    BACKFILLS_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    changed: _containers.RepeatedScalarFieldContainer[str]
    losses: _containers.RepeatedScalarFieldContainer[str]
    backfills: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[_Iterable[str]] = ..., changed: _Optional[_Iterable[str]] = ..., losses: _Optional[_Iterable[str]] = ..., backfills: _Optional[_Iterable[str]] = ...) -> None: ...

class ApplyCatalogResponse(_message.Message):
    __slots__ = ("version", "change")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    version: int
    change: CatalogChange
    def __init__(self, version: _Optional[int] = ..., change: _Optional[_Union[CatalogChange, _Mapping]] = ...) -> None: ...

class GetCatalogRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FeatureStatus(_message.Message):
    __slots__ = ("name", "percent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    percent: int
    def __init__(self, name: _Optional[str] = ..., percent: _Optional[int] = ...) -> None: ...

class FeatureSince(_message.Message):
    __slots__ = ("name", "complete_since_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    complete_since_ms: int
    def __init__(self, name: _Optional[str] = ..., complete_since_ms: _Optional[int] = ...) -> None: ...

class GetCatalogResponse(_message.Message):
    __slots__ = ("source", "version", "backfilling", "complete_since")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKFILLING_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_SINCE_FIELD_NUMBER: _ClassVar[int]
    source: str
    version: int
    backfilling: _containers.RepeatedCompositeFieldContainer[FeatureStatus]
    complete_since: _containers.RepeatedCompositeFieldContainer[FeatureSince]
    def __init__(self, source: _Optional[str] = ..., version: _Optional[int] = ..., backfilling: _Optional[_Iterable[_Union[FeatureStatus, _Mapping]]] = ..., complete_since: _Optional[_Iterable[_Union[FeatureSince, _Mapping]]] = ...) -> None: ...

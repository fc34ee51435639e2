from profilegrid.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProfileFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROFILE_FORMAT_UNSPECIFIED: _ClassVar[ProfileFormat]
    PROFILE_FORMAT_ROWS: _ClassVar[ProfileFormat]
    PROFILE_FORMAT_COLUMNS: _ClassVar[ProfileFormat]
PROFILE_FORMAT_UNSPECIFIED: ProfileFormat
PROFILE_FORMAT_ROWS: ProfileFormat
PROFILE_FORMAT_COLUMNS: ProfileFormat

class Profile(_message.Message):
    __slots__ = ("user_id", "exists", "attributes", "features", "as_of_ms", "approximate", "warnings")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _events_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_events_pb2.Value, _Mapping]] = ...) -> None: ...
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _events_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_events_pb2.Value, _Mapping]] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    exists: bool
    attributes: _containers.MessageMap[str, _events_pb2.Value]
    features: _containers.MessageMap[str, _events_pb2.Value]
    as_of_ms: int
    approximate: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., exists: _Optional[bool] = ..., attributes: _Optional[_Mapping[str, _events_pb2.Value]] = ..., features: _Optional[_Mapping[str, _events_pb2.Value]] = ..., as_of_ms: _Optional[int] = ..., approximate: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetProfileRequest(_message.Message):
    __slots__ = ("user_id", "fields", "as_of_ms")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    fields: _containers.RepeatedScalarFieldContainer[str]
    as_of_ms: int
    def __init__(self, user_id: _Optional[str] = ..., fields: _Optional[_Iterable[str]] = ..., as_of_ms: _Optional[int] = ...) -> None: ...

class GetProfileResponse(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: Profile
    def __init__(self, profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...

class BatchGetProfilesRequest(_message.Message):
    __slots__ = ("user_ids", "fields", "as_of_ms", "format", "user_id_data", "user_id_ends")
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    USER_ID_DATA_FIELD_NUMBER: _ClassVar[int]
    USER_ID_ENDS_FIELD_NUMBER: _ClassVar[int]
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    fields: _containers.RepeatedScalarFieldContainer[str]
    as_of_ms: int
    format: ProfileFormat
    user_id_data: bytes
    user_id_ends: bytes
    def __init__(self, user_ids: _Optional[_Iterable[str]] = ..., fields: _Optional[_Iterable[str]] = ..., as_of_ms: _Optional[int] = ..., format: _Optional[_Union[ProfileFormat, str]] = ..., user_id_data: _Optional[bytes] = ..., user_id_ends: _Optional[bytes] = ...) -> None: ...

class ResultColumn(_message.Message):
    __slots__ = ("name", "is_feature", "type", "known", "values", "list_ends", "keys", "dictionary_data", "dictionary_ends")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_FEATURE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LIST_ENDS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_DATA_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_ENDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_feature: bool
    type: str
    known: bytes
    values: bytes
    list_ends: bytes
    keys: bytes
    dictionary_data: bytes
    dictionary_ends: bytes
    def __init__(self, name: _Optional[str] = ..., is_feature: _Optional[bool] = ..., type: _Optional[str] = ..., known: _Optional[bytes] = ..., values: _Optional[bytes] = ..., list_ends: _Optional[bytes] = ..., keys: _Optional[bytes] = ..., dictionary_data: _Optional[bytes] = ..., dictionary_ends: _Optional[bytes] = ...) -> None: ...

class ProfileColumns(_message.Message):
    __slots__ = ("exists", "columns", "as_of_ms", "approximate", "warnings")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    exists: bytes
    columns: _containers.RepeatedCompositeFieldContainer[ResultColumn]
    as_of_ms: int
    approximate: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, exists: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[ResultColumn, _Mapping]]] = ..., as_of_ms: _Optional[int] = ..., approximate: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchGetProfilesResponse(_message.Message):
    __slots__ = ("profiles", "columns")
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[Profile]
    columns: ProfileColumns
    def __init__(self, profiles: _Optional[_Iterable[_Union[Profile, _Mapping]]] = ..., columns: _Optional[_Union[ProfileColumns, _Mapping]] = ...) -> None: ...

class StreamProfilesRequest(_message.Message):
    __slots__ = ("read",)
    READ_FIELD_NUMBER: _ClassVar[int]
    read: BatchGetProfilesRequest
    def __init__(self, read: _Optional[_Union[BatchGetProfilesRequest, _Mapping]] = ...) -> None: ...

class StreamProfilesResponse(_message.Message):
    __slots__ = ("profiles", "error")
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    profiles: BatchGetProfilesResponse
    error: bytes
    def __init__(self, profiles: _Optional[_Union[BatchGetProfilesResponse, _Mapping]] = ..., error: _Optional[bytes] = ...) -> None: ...

class UpdateProfileRequest(_message.Message):
    __slots__ = ("updates", "producer_id", "batch_number")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_NUMBER_FIELD_NUMBER: _ClassVar[int]
    updates: _containers.RepeatedCompositeFieldContainer[ProfileUpdate]
    producer_id: bytes
    batch_number: int
    def __init__(self, updates: _Optional[_Iterable[_Union[ProfileUpdate, _Mapping]]] = ..., producer_id: _Optional[bytes] = ..., batch_number: _Optional[int] = ...) -> None: ...

class ProfileUpdate(_message.Message):
    __slots__ = ("user_id", "set", "unset")
    class SetEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _events_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_events_pb2.Value, _Mapping]] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    set: _containers.MessageMap[str, _events_pb2.Value]
    unset: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., set: _Optional[_Mapping[str, _events_pb2.Value]] = ..., unset: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateProfileResponse(_message.Message):
    __slots__ = ("accepted", "rejected")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    rejected: _containers.RepeatedCompositeFieldContainer[_events_pb2.RejectedRow]
    def __init__(self, accepted: _Optional[int] = ..., rejected: _Optional[_Iterable[_Union[_events_pb2.RejectedRow, _Mapping]]] = ...) -> None: ...

class DeleteProfileRequest(_message.Message):
    __slots__ = ("user_ids", "producer_id", "batch_number")
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_NUMBER_FIELD_NUMBER: _ClassVar[int]
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    producer_id: bytes
    batch_number: int
    def __init__(self, user_ids: _Optional[_Iterable[str]] = ..., producer_id: _Optional[bytes] = ..., batch_number: _Optional[int] = ...) -> None: ...

class DeleteProfileResponse(_message.Message):
    __slots__ = ("accepted",)
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    def __init__(self, accepted: _Optional[int] = ...) -> None: ...

class WatchProfileRequest(_message.Message):
    __slots__ = ("user_id", "fields")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., fields: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchProfileResponse(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: Profile
    def __init__(self, profile: _Optional[_Union[Profile, _Mapping]] = ...) -> None: ...

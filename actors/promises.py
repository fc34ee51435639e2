"""What replicas keep and say, as plain data: promises on the disk, messages to the controller and between members."""

from __future__ import annotations

import secrets
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from grid.replication.messages import Ack, Config, Expand, Hello, Mismatch, Release, Sealed, Shrink, Stale, Suspect
from grid.storage.files import replace_file

if TYPE_CHECKING:
    from grid.group import Group

FORMAT = 1
_TO_CONTROLLER: dict[str, type[Any]] = {kind.__name__: kind for kind in (Hello, Shrink, Expand, Suspect, Sealed)}
_BETWEEN: dict[str, type[Any]] = {kind.__name__: kind for kind in (Ack, Mismatch, Stale, Release)}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (*_TO_CONTROLLER.values(), *_BETWEEN.values())}


def packed_message(message: Any) -> list[Any]:
    """A flat message as plain data."""
    kind = type(message)
    return [kind.__name__, *(getattr(message, name) for name in _FIELDS[kind])]  # astuple copies deeply: 8 µs, where thousands go each second


def message_of(plain: list[Any]) -> Any:
    """Inverse of `packed_message`."""
    return _TO_CONTROLLER[plain[0]](*plain[1:])


def config_of(plain: list[Any]) -> Config:
    """A config from plain data, as `astuple` makes it."""
    epoch, primary, insync, replicas, successor = plain
    return Config(epoch, primary, tuple(insync), tuple(replicas), successor)


def between_of(kind: str, fields: list[Any]) -> Any:
    """A message between members, without entries, from plain data."""
    return _BETWEEN[kind](*fields)


class Promises:
    """The file of what was promised in each partition, and the name of this data folder as a member."""

    def __init__(self, folder: Path, shard: int) -> None:
        self._path = folder / "replicas.bin"
        self.promised: dict[int, int] = {}
        self.member = f"{shard}-{secrets.token_hex(4)}"
        if self._path.exists():
            version, self.member, self.promised = msgpack.unpackb(self._path.read_bytes(), strict_map_key=False)
            if version != FORMAT:
                raise ValueError(f"{self._path}: format {version}, this version reads {FORMAT}")
        else:
            self.write()

    def write(self) -> None:
        """To the disk, file and folder."""
        replace_file(self._path, msgpack.packb([FORMAT, self.member, self.promised]))


def is_all(group: Group, wanted: dict[int, set[int]]) -> bool:
    """Whether these positions by partition are all that a group has."""
    places = group.places()
    return len(places) == len(wanted) and all(len(wanted.get(partition, ())) == len(positions) for partition, positions in places.items())


def part_of(group: Group, wanted: dict[int, set[int]]) -> Group:
    """The blocks of a group at these positions by partition."""

    def is_wanted(partitions: Any, positions: Any) -> Any:
        pairs = zip(partitions.tolist(), positions.tolist(), strict=True)
        return np.array([position in wanted.get(partition, ()) for partition, position in pairs], dtype=bool)

    part = group.only(is_wanted)
    assert part is not None
    return part

"""Every TCP connection of a grid goes through here, so that what flows between any two of its parts can be stopped, slowed down or cut off.

The shim sends each connection here and says which process calls which address; who listens there is looked up. Rules are about the direction
in which bytes flow, whoever connected: replies can be lost while requests arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HELLO, MAGIC = struct.Struct("=Ii4s2s"), 0x50470001
CHUNK_BYTES = 1 << 16
Action = Literal["hold", "cut", "delay"]


@dataclass(frozen=True)
class Rule:
    """What becomes of bytes from one part to another. Parts are named by their beginning: "" is anyone, "shard-" any shard.

    hold: they wait, and arrive when the rule ends, as TCP repeats them. cut: the connection breaks. delay: each chunk is `ms` late.
    """

    source: str
    destination: str
    action: Action
    ms: float = 0.0

    def concerns(self, source: str, destination: str) -> bool:
        """Whether it says something about bytes from one part to another."""
        return source.startswith(self.source) and destination.startswith(self.destination)


class Proxy:
    """A thread with its own loop. `name_of` names a process: "shard-0", "controller", "client", "" for what is none of ours."""

    def __init__(self, name_of: Callable[[int], str]) -> None:
        self._name_of = name_of
        self._rules: tuple[Rule, ...] = ()
        self._listeners: dict[int, int] = {}
        self._open: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        # Connections that went between two parts, and bytes: a rule that concerns none proves nothing.
        self.carried: dict[tuple[str, str], int] = {}
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, args=(listening,), name="proxy", daemon=True)
        self._thread.start()

    def rule(self, *rules: Rule) -> None:
        """From now on these, and no others."""
        self._loop.call_soon_threadsafe(self._set, rules)

    def end(self) -> None:
        """Every connection breaks."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._accept, sock=listening))
        self._loop.run_forever()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _set(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out: asyncio.StreamWriter | None = None
        self._open.add(writer)
        try:
            magic, pid, host, port = HELLO.unpack(await reader.readexactly(HELLO.size))
            assert magic == MAGIC
            address = socket.inet_ntoa(host), int.from_bytes(port, "big")
            try:
                source, destination = self._name_of(pid), self._name_of(await self._listener(*address))
                if self._rule(source, destination, "cut") or self._rule(destination, source, "cut"):
                    raise ConnectionRefusedError
                back, out = await asyncio.open_connection(*address)
            except OSError as error:
                writer.write(bytes([error.errno or errno.ECONNREFUSED]))
                return
            self._open.add(out)
            writer.write(b"\0")
            there = asyncio.create_task(self._carry(reader, out, source, destination))
            await self._carry(back, writer, destination, source)
            await there
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in (writer, out):
                if end is not None:
                    self._open.discard(end)
                    with contextlib.suppress(OSError, RuntimeError):
                        end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, destination: str) -> None:
        """Bytes of one direction, until it ends or a rule breaks the connection."""
        try:
            while data := await self._read(reader, writer, source, destination):
                if late := self._rule(source, destination, "delay"):
                    await asyncio.sleep(late.ms / 1000)
                while self._rule(source, destination, "hold"):
                    await self._changed.wait()
                self.carried[source, destination] = self.carried.get((source, destination), 0) + len(data)
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
        except OSError:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, destination: str) -> bytes:
        """Some bytes, b"" at the end. Raises ConnectionResetError where the connection is cut."""
        reading = asyncio.ensure_future(reader.read(CHUNK_BYTES))
        changed: asyncio.Future[Any] | None = None
        try:
            while not reading.done():
                if self._rule(source, destination, "cut"):
                    raise ConnectionResetError
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((reading, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            return reading.result()
        finally:
            reading.cancel()
            if changed is not None:
                changed.cancel()

    def _rule(self, source: str, destination: str, action: Action) -> Rule | None:
        return next((rule for rule in self._rules if rule.action == action and rule.concerns(source, destination)), None)

    async def _listener(self, host: str, port: int) -> int:
        """The process that listens at a port. Raises ConnectionRefusedError: nobody."""
        pid = self._listeners.get(port, 0)
        if not pid or not is_there(pid):
            # All callers try a dead shard's port again and again, and this loop carries all bytes of the grid: it doesn't read all of /proc for each try.
            _, trial = await asyncio.open_connection(host, port)
            trial.close()
            self._listeners = listeners()
            pid = self._listeners.get(port, 0)
        return pid


def is_there(pid: int) -> bool:
    """Whether a process lives."""
    return Path(f"/proc/{pid}").exists()


def listeners() -> dict[int, int]:
    """Process by port, of all that listen over TCP on this machine."""
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                ports[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        port = ports.get(str(descriptor.readlink()))
                        if port is not None:
                            found[port] = int(process.name)
    return found

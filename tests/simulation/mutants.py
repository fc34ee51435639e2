"""Breakages of the protocol, each by a name and a line or two. A simulation that does not notice one of them proves nothing.

A mutant is made when its process imports the module: the sources stay as they are, and a mutant whose line is gone is an error.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

REPLICA, CONTROLLER, DISK, HOSTS = "grid.replication.replica", "grid.replication.controller", "tests.simulation.disk", "tests.simulation.hosts"
Change = tuple[str, str, str]  # (module, the line's part, what stands there instead)

MUTANTS: dict[str, list[Change]] = {
    "no fence": [(REPLICA, "if epoch < self._fence:\n            self._send(sender, Stale", "if epoch < 0:\n            self._send(sender, Stale")],
    "acknowledge alone": [(REPLICA, "for member in self._required())])", "for member in ())])")],
    "no lease": [(REPLICA, "return now < self.readable_until(now)", "return self.readable_until(now) > -math.inf")],
    "lease from receive time": [(REPLICA, "max(peer.lease_from_ms, ack.sent_ms)", "now")],
    "unclean election": [
        (REPLICA, "if self.me in self.config.insync:\n                self._send", "if True:\n                self._send"),
        (CONTROLLER, "case Suspect() if sender in config.insync and sender != config.primary:", "case Suspect() if sender != config.primary:"),
        (CONTROLLER, "primary=sender, insync=_without(config.insync, config.primary)", "primary=sender, insync=(sender,)"),
    ],
    "no step-down": [(REPLICA, "self.role, self._fence = Role.NONE, epoch", "self._fence = epoch")],
    "reorder-truncate": [
        (REPLICA, "if not self.journal.has(entry.position, entry.epoch)]", "]"),
        (REPLICA, 'holds(after >= max(self._matched, self.committed), "what was acknowledged', 'holds(True, "what was acknowledged'),
    ],
    "early expand": [(REPLICA, "if is_outside and peer.matched >= held:", "if is_outside:")],
    "early expand after a restart": [(REPLICA, "max(self.committed, self._epoch_start, self.journal.last", "max(self.committed, self.journal.last")],
    "no directory fsync": [(DISK, "        self.visible = value\n        self.synced = value", "        self.visible = value")],
    "dedupe off": [(HOSTS, "position = serving.known.get(ask.operation)", "position = None")],
    "no lock": [(DISK, "if self.owner is not None and self.owner.is_alive:", "if False:")],
    "alone while it expands": [(REPLICA, "(set(self.config.insync) | self._asked) - {self.me}", "set(self.config.insync) - {self.me}")],
    "announced before it is kept": [(CONTROLLER, "placed.saving, placed.ticket = config,", "placed.config, placed.saving, placed.ticket = config, config,")],
    "acts before its promise is kept": [
        (
            REPLICA,
            "self._effects.append(Keep(epoch, config, self._entering[0]))",
            "self._effects.append(Keep(epoch, config, self._entering[0])); self._entering = None; self._enter(config, primary, self._heard_ms)",
        )
    ],
    "acknowledged before the fsync": [(REPLICA, "Ack(self.epoch, min(self.durable, self._matched), sent_ms)", "Ack(self.epoch, self._matched, sent_ms)")],
    "own fsync not awaited": [(REPLICA, "through = min([self.durable, *", "through = min([self.journal.last, *")],
    "grants forgotten by a start": [(REPLICA, "self._granted_until_ms = now + timing.lease * timing.drift\n", "self._granted_until_ms = now\n")],
    "grants not waited for": [(REPLICA, "else max(now, self._granted_until_ms)", "else now")],
    "leases used after their release": [(REPLICA, "self._is_released = True", "self._is_released = False")],
    "hands over what it may not serve yet": [(REPLICA, "self.committed == self.journal.last and now >= self._serve_from_ms", "self.committed == self.journal.last")],
    "any release counts": [(REPLICA, "self._released_epoch >= self._granted_epoch", "self._released_epoch >= 0")],
    "damage not told": [(REPLICA, "if self.is_damaged:\n", "if False:\n"), (REPLICA, "Hello(self.promised, self.is_fresh, self.is_damaged, knows)", "Hello(self.promised, self.is_fresh, False, knows)")],
    "suffix cut by a new primary": [(REPLICA, "        self._epoch_start = self._append_own(None)", "        self.journal.cut(self.committed); self.durable = min(self.durable, self.committed); self._epoch_start = self._append_own(None)")],
    "former epochs not awaited": [(REPLICA, "self._is_released or self.committed < self._epoch_start or now", "self._is_released or now")],
    "goes on after a failed write": [(REPLICA, "        if not is_ok:\n", "        if False:\n")],
    "takes what comes before damage is thrown away": [(HOSTS, "isinstance(inner, Append | Snapshot):", "isinstance(inner, Append):")],
    "no re-announcement": [(CONTROLLER, "        if not is_told:\n", "        if False:\n")],
    "shrinks on its own account": [
        (REPLICA, "                self._send(CONTROLLER, Shrink(self.epoch, member))", "                self._asked.discard(member); self.config = Config(self.epoch, self.me, tuple(m for m in self.config.insync if m != member), self.config.replicas)")
    ],
    "resumes its epoch after a restart": [
        (REPLICA, "        elif config.primary != self.me:\n", "        else:\n"),
        (CONTROLLER, "sender == config.primary and hello.promised >= config.epoch:", "False:"),
    ],
}  # fmt: skip
# In every run of the tests; the others where there is time for them.
FIRST = ("no fence", "unclean election", "grants not waited for")


class _Loader(importlib.abc.SourceLoader):
    """Loads a module with its lines changed."""

    def __init__(self, path: str, changes: Sequence[Change]) -> None:
        self._path, self._changes = path, changes

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        with open(path) as file:
            text = file.read()
        for _, old, new in self._changes:
            if text.count(old) != 1:
                raise AssertionError(f"a mutant's line occurs {text.count(old)} times in {path}: {old}")
            text = text.replace(old, new)
        return text.encode()


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        mine = [change for change in self._changes if change[0] == fullname]
        if not mine:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        return importlib.machinery.ModuleSpec(fullname, _Loader(spec.origin, mine), origin=spec.origin)


def become(name: str) -> None:
    """Make this process a mutant's. Before any of the modules is imported."""
    loaded = [module for module, _, _ in MUTANTS[name] if module in sys.modules]
    if loaded:
        raise AssertionError(f"already imported: {loaded}")
    sys.meta_path.insert(0, _Finder(MUTANTS[name]))

"""The one arbiter: each partition's config, changed by compare-and-set on its epoch, persisted before anyone hears of it.

Owns configs and targets. Leaves to its process: the disk, the network, the clock, that there is only one of it (a lock on its folder).
Always: every change raises the epoch; the primary is in sync; whoever becomes in sync was, or was asked for by the primary.

A partition is moved, given a second copy or rid of one by a target, its members in order, the first to be primary:

    replicas + target --they catch up, the primary asks for them--> in sync --the primary seals, hands over--> replicas = target
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from grid.errors import holds
from grid.replication.messages import Announce, Config, Effect, Expand, Halt, Hello, Member, Save, Sealed, Send, Shrink, Suspect


@dataclass(slots=True)
class Placed:
    """A partition's config as persisted, and where it shall lie. `saving`: the next config, not yet persisted."""

    config: Config
    target: tuple[Member, ...]
    saving: Config | None = None
    ticket: int = 0


class Controller:
    """Every `on_…` and every request returns the effects to be carried out, in their order."""

    def __init__(self, placed: dict[int, tuple[Config, tuple[Member, ...]]]) -> None:
        self._placed = {partition: Placed(config, target) for partition, (config, target) in sorted(placed.items())}
        self._tickets = 0
        self._effects: list[Effect] = []

    def config(self, partition: int) -> Config:
        """The config in force."""
        return self._placed[partition].config

    def target(self, partition: int) -> tuple[Member, ...]:
        """Where a partition shall lie, the primary first."""
        return self._placed[partition].target

    def is_settled(self, partition: int) -> bool:
        """Whether a partition lies where it shall, with every copy in sync."""
        placed = self._placed[partition]
        config = placed.config
        return placed.saving is None and set(config.insync) == set(config.replicas) == set(placed.target) and config.primary == placed.target[0]

    # --- what the process tells ---------------------------------------------------------------------------------------------

    def begin(self, partition: int, config: Config, target: tuple[Member, ...]) -> list[Effect]:
        """A partition that its primary served alone, without us, gets its first config, of a higher epoch than it was served in."""
        holds(partition not in self._placed, "a partition that has a config begins anew", partition=partition)
        holds(config.insync == (config.primary,), "a first config has others in sync", config=config)
        self._placed[partition] = Placed(config, target)
        self._save(partition, config)
        return self._taken()

    def end(self, partition: int) -> None:
        """A partition lies alone at its primary, and is served without us from now on, in epochs above its config's."""
        holds(len(self._placed[partition].config.replicas) == 1 and self._placed[partition].saving is None, "not alone", partition=partition)
        del self._placed[partition]

    def place(self, partition: int, target: tuple[Member, ...]) -> list[Effect]:
        """Let a partition lie at `target` from now on. Goes on by ticks; may be changed at any time, also back."""
        holds(len(target) > 0 and len(set(target)) == len(target), "a target names a member twice, or none", target=target)
        placed = self._placed[partition]
        placed.target = target
        self._save(partition, placed.saving or placed.config)
        return self._taken()

    def on_message(self, partition: int, sender: Member, message: Any) -> list[Effect]:
        """A replica's message. What is stale or can not be is answered with the config in force: an announcement may have been lost."""
        placed = self._placed[partition]
        if placed.saving is None:
            config = self._changed(placed, sender, message)
            if config is not None:
                self._save(partition, config)
                return self._taken()
        is_told = isinstance(message, Hello) and message.promised == placed.config.epoch and message.knows_config
        if not is_told:
            self._send(sender, Announce(placed.config))
        return self._taken()

    def on_tick(self) -> list[Effect]:
        """Go on with what targets ask for."""
        for partition, placed in self._placed.items():
            if placed.saving is None:
                config = _towards(placed.config, placed.target)
                if config is not None:
                    self._save(partition, config)
        return self._taken()

    def on_io(self, partition: int, ticket: int, *, is_ok: bool) -> list[Effect]:
        """A Save has ended."""
        placed = self._placed[partition]
        if not is_ok:
            self._effects.append(Halt("the state could not be saved: what is on the disk is unknown"))
        elif ticket == placed.ticket and placed.saving is not None:
            before, placed.config, placed.saving = placed.config, placed.saving, None
            for member in dict.fromkeys((*placed.config.replicas, *before.replicas)):
                self._send(member, Announce(placed.config))
        return self._taken()

    # --- compare and set ----------------------------------------------------------------------------------------------------

    def _changed(self, placed: Placed, sender: Member, message: Any) -> Config | None:
        """The config that a message leads to; None: none."""
        config = placed.config
        if isinstance(message, Hello):
            return _greeted(config, sender, message)
        if message.epoch != config.epoch:
            return None
        following = replace(config, epoch=config.epoch + 1)
        match message:
            case Shrink() if sender == config.primary and message.member != sender:
                # Also of one that is not in: the epoch ends, so that the primary need not fear that it still gets in.
                without = replace(following, insync=_without(config.insync, message.member))
                return replace(without, successor="") if config.successor == message.member else without
            case Expand() if sender == config.primary and message.member in config.replicas:
                return replace(following, insync=(*_without(config.insync, message.member), message.member))
            case Suspect() if sender in config.insync and sender != config.primary:
                return replace(following, primary=sender, insync=_without(config.insync, config.primary), successor="")
            case Sealed() if sender == config.primary and config.successor in config.insync:
                kept = config.insync if sender in placed.target else _without(config.insync, sender)
                return replace(following, primary=config.successor, insync=kept, successor="")
        return None

    def _save(self, partition: int, config: Config) -> None:
        placed = self._placed[partition]
        holds(config.primary in config.insync and set(config.insync) <= set(config.replicas), "a config that cannot be", config=config)
        self._tickets += 1
        placed.saving, placed.ticket = config, self._tickets
        self._effects.append(Save(partition, config, placed.target, placed.ticket))

    def _send(self, to: Member, message: Any) -> None:
        self._effects.append(Send(to, message))

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def _without(members: tuple[Member, ...], member: Member) -> tuple[Member, ...]:
    return tuple(kept for kept in members if kept != member)


def _greeted(config: Config, sender: Member, hello: Hello) -> Config | None:
    """A damaged member leaves the in-sync set while another has all; a primary that started anew gets an epoch of its own."""
    following = replace(config, epoch=config.epoch + 1)
    if hello.is_damaged and sender in config.insync and len(config.insync) > 1:
        insync = _without(config.insync, sender)
        primary = insync[0] if sender == config.primary else config.primary
        successor = "" if sender in (config.primary, config.successor) else config.successor
        return replace(following, primary=primary, insync=insync, successor=successor)
    if hello.is_fresh and not hello.is_damaged and sender == config.primary and hello.promised >= config.epoch:
        return following
    return None


def _towards(config: Config, target: tuple[Member, ...]) -> Config | None:
    """The next step on the way to a target; None: there is none, or others must act first."""
    following = replace(config, epoch=config.epoch + 1)
    # Who is neither in sync nor meant to be leaves at once: perhaps its disk is gone, and it never comes.
    kept = (member for member in config.replicas if member in config.insync or member in target)
    replicas = tuple(dict.fromkeys((*kept, *target)))
    if set(replicas) != set(config.replicas):
        return replace(following, replicas=replicas)
    if not set(target) <= set(config.insync):
        return None
    if config.primary != target[0]:
        return None if config.successor == target[0] else replace(following, successor=target[0])
    if set(config.replicas) != set(target) or config.successor:
        return replace(following, insync=target, replicas=target, successor="")
    return None

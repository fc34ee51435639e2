"""How often this process was forked into being: a client belongs to the process that made it. Cheaper to ask than the pid, a system call."""

from __future__ import annotations

import os

_forks = 0


def _count() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count)


def forks() -> int:
    """Forks between the first process and this one."""
    return _forks

"""The short form of the fault matrix: one fault of each sort, then several at a time. `make faults` is the long one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.__main__ import run
from tests.faults.matrix import Matrix


@pytest.mark.long
def test_no_fault_loses_or_doubles_an_event_or_shows_what_was_not_so(tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"FAULT_SEED={seed}")
    matrix = Matrix(tmp_path, seed)
    try:
        run(matrix, short=True)
    finally:
        matrix.end()
    assert matrix.problems == [], f"seed {seed}"
    assert sum(tally.lost + tally.doubled for tally in matrix.tallies.values()) == 0
    assert sum(len(party.record().writes) for party in matrix.parties) > 500

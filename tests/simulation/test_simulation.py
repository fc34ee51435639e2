"""The protocol of replicas under a seeded scheduler: no fault loses, doubles or hides what was acknowledged, and each rule is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.simulation.mutants import FIRST, MUTANTS
from tests.simulation.running import REGRESSIONS, in_a_process, judged, regression_fails, simulated

CASES = [json.loads(line) for line in REGRESSIONS.read_text().splitlines()]


def test_two_hundred_seeds_find_nothing_lost_doubled_stale_or_stuck() -> None:
    tally = simulated(200)
    assert not tally.failures
    assert tally.acknowledged > 40_000
    assert tally.reads > 40_000


@pytest.mark.long
def test_two_thousand_seeds_find_nothing_lost_doubled_stale_or_stuck() -> None:
    assert not simulated(2_000).failures


def test_the_simulation_notices_the_first_mutants() -> None:
    assert [mutant for mutant, seed, _ in judged(FIRST) if seed is None] == []


@pytest.mark.long
def test_no_mutant_survives() -> None:
    assert [mutant for mutant, seed, _ in judged(tuple(MUTANTS)) if seed is None] == []


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_a_case_that_failed_once_fails_no_more(number: int) -> None:
    assert regression_fails(number, None) == []
    assert in_a_process(regression_fails, number, CASES[number]["mutant"]) != [], "the case no longer shows what it was kept for"


def test_a_run_follows_from_its_seed_alone() -> None:
    code = "from tests.simulation.simulation import simulate; print([simulate(seed).digest for seed in (1, 2, 3)])"
    digests = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1

"""Many runs: over the cores, resumable, failures shrunk to the faults that matter; and the gate that no mutant survives."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CHUNK = 25
MUTANT_SEEDS_MAX = 1_000
REGRESSIONS = Path(__file__).with_name("regressions.jsonl")


@dataclass(slots=True)
class Tally:
    """What many runs came to. Written to a file between chunks, so that a long one can go on where it was."""

    done: int = 0
    acknowledged: int = 0
    reads: int = 0
    steps: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count in what other runs came to."""
        self.done += other.done
        self.acknowledged += other.acknowledged
        self.reads += other.reads
        self.steps += other.steps
        self.failures += other.failures

    @classmethod
    def read(cls, path: Path | None) -> Tally:
        """As it was left, or a new one."""
        return cls(**json.loads(path.read_text())) if path is not None and path.exists() else cls()

    def write(self, path: Path | None) -> None:
        """Keep it."""
        if path is not None:
            path.with_suffix(".new").write_text(json.dumps(asdict(self)))
            path.with_suffix(".new").replace(path)


def run_chunk(first: int, last: int) -> Tally:
    """Seeds first..last-1."""
    from tests.simulation.simulation import simulate

    tally = Tally()
    for seed in range(first, last):
        outcome = simulate(seed)
        tally.add(Tally(1, outcome.acknowledged, outcome.reads, outcome.steps, [shrunk(seed)] if outcome.wrong else []))
    return tally


def shrunk(seed: int) -> dict[str, Any]:
    """A failing seed as data: the fewest of its faults with which it still fails (greedy halving; Zeller's ddmin, simplified)."""
    from tests.simulation.simulation import simulate

    outcome = simulate(seed)
    faults, options = outcome.faults, outcome.options
    size = max(len(faults) // 2, 1)
    while size:
        at = 0
        while at < len(faults):
            fewer = faults[:at] + faults[at + size :]
            if simulate(seed, fewer, options).wrong:
                faults = fewer
            else:
                at += size
        size //= 2
    return {"seed": seed, "wrong": simulate(seed, faults, options).wrong[:3], "options": options, "faults": faults}


def simulated(seeds: int, state: Path | None = None, said: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Seeds 0..seeds-1, or those that are left of them."""
    tally = Tally.read(state)
    chunks = [(first, min(first + CHUNK, seeds)) for first in range(tally.done, seeds, CHUNK)]
    with _pool() as pool:
        for part in pool.map(run_chunk, *zip(*chunks, strict=True)) if chunks else ():
            tally.add(part)
            tally.write(state)
            said(tally)
    return tally


def killed(mutant: str) -> tuple[str, int | None, str]:
    """(mutant, the first seed that notices it, what it saw); None: it survived."""
    from tests.simulation import mutants

    mutants.become(mutant)
    from tests.simulation.simulation import simulate

    for case in map(json.loads, REGRESSIONS.read_text().splitlines()):  # what was kept to show just this
        if case["mutant"] == mutant and (wrong := simulate(case["seed"], case["faults"], case["options"]).wrong):
            return mutant, case["seed"], wrong[0]
    for seed in range(MUTANT_SEEDS_MAX):
        try:
            outcome = simulate(seed)
        except Exception as error:  # a mutant may break the simulator's own assumptions
            return mutant, seed, repr(error)
        if outcome.wrong:
            return mutant, seed, outcome.wrong[0]
    return mutant, None, ""


def judged(names: tuple[str, ...]) -> Iterator[tuple[str, int | None, str]]:
    """`killed` of each mutant, in processes of their own, as they come."""
    with _pool(max_tasks_per_child=1) as pool:
        yield from pool.map(killed, names)


def regression_fails(number: int, mutant: str | None) -> list[str]:
    """What is wrong with a kept case, as the code is or as a mutant's."""
    from tests.simulation import mutants

    if mutant is not None:
        mutants.become(mutant)
    from tests.simulation.simulation import simulate

    case = json.loads(REGRESSIONS.read_text().splitlines()[number])
    return simulate(case["seed"], case["faults"], case["options"]).wrong


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it where nothing is imported yet."""
    with _pool(max_tasks_per_child=1) as pool:
        return pool.submit(function, *arguments).result()


def _pool(max_tasks_per_child: int | None = None) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=max_tasks_per_child)

"""What must hold of a run's history: nothing acknowledged is lost or counted twice, no read goes behind what was known before it."""

from __future__ import annotations

from collections import Counter

from tests.simulation.clients import Call
from tests.simulation.hosts import Ledger


def faults_of(history: list[Call], final: Ledger, partition: int, *, with_reads: bool) -> list[str]:
    """Everything that is wrong with the calls to one partition, given the state at the end.

    with_reads  False where a clock was made to jump: only acknowledgements are promised then, not how new a read is
    """
    calls = [call for call in history if call.partition == partition]
    places = {operation: number for number, operation in enumerate(final.operations)}
    found = [f"{operation} is counted {times} times" for operation, times in Counter(final.operations).items() if times > 1]
    acknowledged = [call for call in calls if call.operation is not None and call.ended is not None]
    found += [f"{call.operation} was acknowledged at {call.ended:.1f} and is lost" for call in acknowledged if call.operation not in places]
    sent = {call.operation for call in calls}
    found += [f"{operation} was never sent" for operation in final.operations if operation not in sent]
    if found or not with_reads:
        return found
    return _stale_reads(calls, final, places)


def _stale_reads(calls: list[Call], final: Ledger, places: dict[tuple[str, int], int]) -> list[str]:
    """Reads that miss what was acknowledged, or read, before they began; or that saw what is not the beginning of the end's state."""
    found = []
    # (when, 0 = something became known, 1 = a read began): what ends at a moment is known to what begins at it.
    moments: list[tuple[float, int, Call]] = []
    for call in calls:
        if call.ended is None:
            continue
        moments.append((call.ended, 0, call))
        if call.operation is None:
            moments.append((call.began, 1, call))
    least = 0
    floors: dict[int, int] = {}
    for _, kind, call in sorted(moments, key=lambda moment: moment[:2]):
        if kind == 1:
            floors[id(call)] = least
        elif call.operation is not None:
            least = max(least, places[call.operation] + 1)
        else:
            count, seen = call.value
            if count < floors[id(call)]:
                found.append(f"a read from {call.began:.1f} to {call.ended:.1f} saw {count} operations, {floors[id(call)]} were known before it")
            elif count >= len(final.hashes) or final.hashes[count] != seen:
                found.append(f"a read from {call.began:.1f} to {call.ended:.1f} saw {count} operations that never were")
            least = max(least, count)
    return found

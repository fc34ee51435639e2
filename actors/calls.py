"""Ray calls as coroutines: asyncio's timeouts take coroutines, not Ray's references."""

from __future__ import annotations

import asyncio
from typing import Any

from profilegrid.errors import Unavailable

from grid.errors import GridError

CONTROLLER_TIMEOUT_S = 5.0


async def awaited(reference: Any) -> Any:
    """The result of a Ray call."""
    return await reference


async def ask(reference: Any, timeout_s: float = CONTROLLER_TIMEOUT_S) -> Any:
    """A Ray call's result; the engine's own errors come out as they were raised there."""
    try:
        return await asyncio.wait_for(awaited(reference), timeout_s)
    except TimeoutError:
        raise Unavailable("the controller does not answer", "CONTROLLER_DOWN", code="UNAVAILABLE") from None
    except Exception as error:
        cause = getattr(error, "cause", None)  # Ray wraps what the actor raised
        if isinstance(cause, GridError):
            raise cause from None
        raise Unavailable(f"the controller is down: {type(error).__name__}", "CONTROLLER_DOWN", code="UNAVAILABLE") from None

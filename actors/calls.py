"""Ray calls as coroutines: asyncio's timeouts take coroutines, not Ray's references."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from profilegrid.errors import Unavailable

from grid.errors import GridError

CONTROLLER_TIMEOUT_S = 5.0


async def awaited(reference: Any) -> Any:
    """The result of a Ray call."""
    return await reference


async def first_answer(call: Callable[[], Any], every_s: float, timeout_s: float) -> Any:
    """The first answer to a Ray call that is made again every `every_s`. Raises what an answer raises, TimeoutError.

    What is asked of an actor between two lives is answered by none, and fails late: asked once with 2 s to answer, a shard's next life was found 0.8 s
    after it was there.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    waiting: set[asyncio.Future[Any]] = set()
    try:
        while (left := deadline - loop.time()) > 0:
            waiting.add(asyncio.ensure_future(awaited(call())))
            done, waiting = await asyncio.wait(waiting, timeout=min(every_s, left), return_when=asyncio.FIRST_COMPLETED)
            if done:
                answers = [one for one in done if one.exception() is None]
                return (answers or [*done])[0].result()
        raise TimeoutError
    finally:
        for one in waiting:
            one.cancel()


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

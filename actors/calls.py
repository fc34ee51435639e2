"""Calls of Ray's and of threads as coroutines, and what becomes of them when their caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from profilegrid.errors import Unavailable

from grid.errors import GridError

CONTROLLER_TIMEOUT_S = 5.0
T = TypeVar("T")


async def to_the_end(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call that is not cut off when its caller is cancelled: that comes through when it has ended, unless it failed."""
    work = asyncio.create_task(call)
    cut: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cut = error
    if cut is not None and (work.cancelled() or work.exception() is None):
        raise cut
    return work.result()


async def in_thread(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """As asyncio.to_thread, for work that changes something: nobody can stop a thread, and a lock that its caller holds must not be given back before."""
    return await to_the_end(asyncio.to_thread(work, *arguments, **options))


async def awaited(reference: Any) -> Any:
    """The result of a Ray call: asyncio's timeouts take coroutines, not Ray's references."""
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

"""Ray calls as coroutines: asyncio's timeouts take coroutines, not Ray's references."""

from __future__ import annotations

from typing import Any


async def awaited(reference: Any) -> Any:
    """The result of a Ray call."""
    return await reference

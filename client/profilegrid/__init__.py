"""The client of a profilegrid: stream behaviour in, read profiles, ask who is in an audience.

    import profilegrid
    with profilegrid.Client("127.0.0.1:7600") as grid:
        grid.track("u1", "view", {"item": "sku-9", "price": 59.0})
        grid.flush()
        print(grid.get("u1")["views"], grid.count("views >= 1"))

`Client` may be used from many threads, `AsyncClient` from one event loop. After a fork neither works in the child: make a new one
there (a call on the old one raises ClientClosed; nothing hangs). Names are loaded on first use, so that importing is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profilegrid.aio import AsyncClient
    from profilegrid.errors import (
        AnswerWarning,
        ClientClosed,
        DeliveryUnknown,
        InvalidRequest,
        NotFound,
        Overloaded,
        ProfilegridError,
        Refused,
        ServerFailed,
        Unavailable,
    )
    from profilegrid.results import Page, Profile, Rejection, Report, Table
    from profilegrid.sync import Client

_HOMES = {
    "AsyncClient": "aio", "Client": "sync", "Page": "results", "Profile": "results", "Rejection": "results", "Report": "results",
    "Table": "results",
    **dict.fromkeys(
        ("AnswerWarning", "ClientClosed", "DeliveryUnknown", "InvalidRequest", "NotFound", "Overloaded", "ProfilegridError", "Refused", "ServerFailed", "Unavailable"),
        "errors",
    ),
}  # fmt: skip

__all__ = [
    "AnswerWarning", "AsyncClient", "Client", "ClientClosed", "DeliveryUnknown", "InvalidRequest", "NotFound", "Overloaded", "Page", "Profile",
    "ProfilegridError", "Refused", "Rejection", "Report", "ServerFailed", "Table", "Unavailable",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'profilegrid' has no attribute {name!r}")
    return getattr(importlib.import_module(f"profilegrid.{_HOMES[name]}"), name)

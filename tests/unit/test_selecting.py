"""What queries work in, and the order in which they look at pages."""

from __future__ import annotations

import numpy as np

from grid.state.memory import Workspace


def test_pages_are_looked_at_as_they_lie_in_memory() -> None:
    order = Workspace().order_of(np.array([3, 7, 1, 2]), np.array([0, 0, 1, 1]))
    assert order is not None and order.tolist() == [2, 3, 0, 1]


def test_a_partition_that_took_over_an_earlier_page_keeps_the_order_of_its_ordinals() -> None:
    workspace, pages = Workspace(), np.array([6, 5])
    assert workspace.order_of(pages, np.array([0, 1])) is not None  # each of a partition of its own
    assert workspace.order_of(pages, np.array([0, 0])) is None  # what is remembered of the same pages does not hold any more
    pages[:] = 5, 6  # nor does it change with the caller's array
    order = workspace.order_of(pages, np.array([0, 0]))
    assert order is not None and order.tolist() == [0, 1]

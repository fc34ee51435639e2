"""The pages that scans go over, and their order."""

from __future__ import annotations

import numpy as np

from grid.state.dictionary import Strings
from grid.state.layouts import Workspace, order_of
from grid.state.users import Users
from tests.harness import PARTITIONS, SPACE

BOTH = np.array([0, 1])


def test_pages_are_looked_at_as_they_lie_in_memory() -> None:
    order = order_of(np.array([3, 7, 1, 2]), np.array([0, 0, 1, 1]))
    assert order is not None and order.tolist() == [2, 3, 0, 1]


def test_a_partition_that_took_over_an_earlier_page_keeps_the_order_of_its_ordinals() -> None:
    assert order_of(np.array([6, 5]), np.array([0, 1])) is not None  # each of a partition of its own
    assert order_of(np.array([6, 5]), np.array([0, 0])) is None
    order = order_of(np.array([5, 6]), np.array([0, 0]))
    assert order is not None and order.tolist() == [0, 1]


def arrive(users: Users, partition: int, ids: list[str]) -> None:
    strings = Strings.of(ids)
    users.resolve(strings, strings.hashes(), np.full(len(ids), partition, dtype=np.uint16))


def test_a_layout_is_made_again_where_users_came_and_where_pages_changed_hands() -> None:
    users, workspace = Users(PARTITIONS, 1, SPACE), Workspace()
    arrive(users, 0, ["a", "b"])
    arrive(users, 1, ["c"])
    first = workspace.layout(users, BOTH)
    assert workspace.layout(users, BOTH) is first
    assert first.spans.tolist() == [[1, 2], [2, 1], [0, 1]] and first.owners.tolist() == [0, 1] and first.mask_words == 2
    arrive(users, 1, ["d"])
    assert workspace.layout(users, BOTH).spans.tolist() == [[1, 2], [2, 2], [0, 1]]
    pages = [users.dump_page(1), users.dump_page(2)]
    for partition in (0, 1):
        users.drop_partition(partition)
    for partition in (0, 1):  # as many users as before, each on the other's page
        users.load_partition(partition, [pages[partition]], 2)
    again = workspace.layout(users, BOTH)
    assert again.spans.tolist() == [[1, 2], [2, 2], [0, 1]] and again.owners.tolist() == [1, 0]

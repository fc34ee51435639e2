"""Ids hash in the client as they do in the library, whatever their length and number."""

from __future__ import annotations

import random

import pytest
import xxhash
from profilegrid.columns import Strings
from profilegrid.hashing import VECTOR_MIN, hash_ids
from profilegrid.routes import partitions_of


@pytest.mark.parametrize("lengths", [range(1, 4), range(4, 9), range(9, 17), range(17, 33), [36], range(65, 129), range(300), [0]], ids=str)
@pytest.mark.parametrize("count", [1, VECTOR_MIN - 1, VECTOR_MIN, 2000])
def test_many_ids_hash_as_the_library_hashes_one(lengths: list[int], count: int) -> None:
    chance = random.Random(count)
    ids = [chance.randbytes(chance.choice(lengths)) for _ in range(count)]
    packed = Strings.of(ids)
    assert hash_ids(packed).tolist() == [xxhash.xxh3_64_intdigest(name) for name in ids]
    assert partitions_of(packed, 64).tolist() == [xxhash.xxh3_64_intdigest(name) % 64 for name in ids]

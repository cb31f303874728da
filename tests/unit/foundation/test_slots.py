"""Slots of many numbers at once are those of their keys, one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foundation.model.ids import MAX_ID
from foundation.redis.client import slot_of_key
from foundation.redis.slots import slots_of_numbers

POWERS = [10**digits for digits in range(19)]
BORDERS = [0, *POWERS, *(power - 1 for power in POWERS), MAX_ID]


@given(st.lists(st.one_of(st.integers(0, MAX_ID), st.integers(0, 10_000), st.sampled_from(BORDERS)), max_size=50))
def test_slots_are_those_of_the_keys(numbers: list[int]) -> None:
    found = slots_of_numbers(np.array(numbers, dtype=np.int64))
    assert found.tolist() == [slot_of_key(f"feed:{{{number}}}") for number in numbers]


def test_at_every_number_of_digits() -> None:
    assert slots_of_numbers(np.array(BORDERS)).tolist() == [slot_of_key(f"feed:{{{number}}}") for number in BORDERS]

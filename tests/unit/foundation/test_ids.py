"""Snowflakes are unique and ascending, whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import Unavailable
from foundation.model.clock import Millis
from foundation.model.ids import EPOCH_MS, SLOT_MS, Snowflakes, created_ms, id_at, slot_at, slot_of, worker_of


class SteppingClock:
    """A clock that the test moves."""

    def __init__(self, now_ms: int = EPOCH_MS + 1_000_000) -> None:
        self.now = now_ms

    def now_ms(self) -> Millis:
        return Millis(self.now)

    def monotonic(self) -> float:
        return self.now / 1000


@given(st.lists(st.integers(-5, 20), max_size=300))
def test_ids_ascend_while_the_clock_wobbles(steps: list[int]) -> None:
    clock = SteppingClock()
    ids = Snowflakes(clock, worker=3)
    minted = []
    for step in steps:
        clock.now += step
        try:
            minted.append(ids.next())
        except Unavailable:
            continue
    assert minted == sorted(set(minted))


def test_a_step_back_is_refused() -> None:
    clock = SteppingClock()
    ids = Snowflakes(clock)
    ids.next()
    clock.now -= Snowflakes.TOLERATED_STEP_MS + 1
    with pytest.raises(Unavailable) as refused:
        ids.next()
    assert refused.value.reason == "CLOCK_STEPPED_BACK"


def test_an_id_tells_when_where_and_which_slot() -> None:
    clock = SteppingClock()
    minted = Snowflakes(clock, region=1, worker=7).next()
    assert created_ms(minted) == clock.now
    assert worker_of(minted) == 1 << 10 | 7
    assert slot_of(minted) == slot_at(clock.now) == (clock.now - EPOCH_MS) // SLOT_MS


def test_a_burst_runs_ahead_of_the_clock_by_a_second_at_most() -> None:
    clock = SteppingClock()
    ids = Snowflakes(clock)
    minted = [ids.next() for _ in range(512 * (Snowflakes.MAX_AHEAD_MS + 1))]
    assert minted == sorted(set(minted))
    with pytest.raises(Unavailable) as refused:
        ids.next()
    assert refused.value.reason == "IDS_EXHAUSTED"
    clock.now += 1
    assert ids.next() > minted[-1]


def test_what_ran_ahead_does_not_look_like_a_step_back() -> None:
    clock = SteppingClock()
    ids = Snowflakes(clock)
    minted = [ids.next() for _ in range(10_000)]
    clock.now -= 1
    assert ids.next() > minted[-1]


def test_id_at_is_the_smallest_of_its_millisecond() -> None:
    clock = SteppingClock()
    minted = Snowflakes(clock).next()
    assert id_at(clock.now) <= minted < id_at(clock.now + 1)

"""Levels: entered by either measure, left at half, whatever the way there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_worker.model import Lag, Level
from fanout_worker.stages.pressure import ENTERED_ABOVE, next_level

TABLE = [
    # level, seconds, deliveries, next
    (0, 0, 0, 0), (0, 10, 100_000, 0), (0, 10.1, 0, 1), (0, 0, 100_001, 1), (0, 60.1, 0, 2), (0, 0, 500_001, 2),
    (0, 300.1, 0, 3), (0, 0, 1_000_001, 3), (1, 10, 0, 1), (1, 5.1, 0, 1), (1, 5, 50_000, 0), (1, 0, 50_001, 1),
    (2, 31, 0, 2), (2, 30, 250_000, 1), (3, 150.1, 0, 3), (3, 150, 500_000, 2), (3, 30, 250_000, 1), (3, 5, 50_000, 0),
    (3, 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("level", "seconds", "deliveries", "after"), TABLE)
def test_the_table(level: int, seconds: float, deliveries: int, after: int) -> None:
    assert next_level(Level(level), Lag(seconds, deliveries)) == after


lags = st.builds(Lag, st.floats(0, 1_000), st.integers(0, 3_000_000))


@given(st.sampled_from(Level), lags)
def test_a_lag_that_stays_leads_to_a_level_that_stays(level: Level, lag: Lag) -> None:
    after = next_level(level, lag)
    assert next_level(after, lag) is after


@given(st.sampled_from(Level), lags, lags)
def test_more_lag_is_never_less_of_a_level(level: Level, one: Lag, other: Lag) -> None:
    more = Lag(max(one.seconds, other.seconds), max(one.deliveries, other.deliveries))
    assert next_level(level, more) >= next_level(level, one)


def test_every_border_is_above_the_one_before() -> None:
    borders = [ENTERED_ABOVE[level] for level in Level if level]
    assert borders == sorted(borders, key=lambda lag: (lag.seconds, lag.deliveries))

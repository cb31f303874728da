"""How many RPCs are taken, and which are refused first."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from foundation.rpc.admission import CALM, LAGS_PER_STEP, LEAST, TARGET_LAG_S, Admission, Priority

PRIORITIES = st.sampled_from(list(Priority))
LAGS = st.floats(0, 2, allow_nan=False)


def step(admission: Admission, lag_s: float, times: int = 1) -> None:
    for _ in range(times * LAGS_PER_STEP):
        admission.observe(lag_s)


def fill(admission: Admission) -> int:
    """Take every place; how many there were."""
    taken = 0
    while admission.enter(Priority.CRITICAL):
        taken += 1
    return taken


def empty(admission: Admission) -> None:
    while admission.in_flight:
        admission.leave()


def overload(admission: Admission, lag_s: float, steps: int) -> None:
    """So many steps with every place taken at once."""
    for _ in range(steps):
        fill(admission)
        step(admission, lag_s)
    empty(admission)
    step(admission, 0.0)


@given(st.lists(st.tuples(PRIORITIES, st.booleans(), LAGS), max_size=300), st.integers(1, 300))
def test_whatever_happens_the_limit_holds_and_lower_classes_are_refused_first(
    story: Sequence[tuple[Priority, bool, float]], most: int
) -> None:
    admission = Admission(most)
    taken = 0
    for priority, comes, lag_s in story:
        admission.observe(lag_s)
        assert min(LEAST, most) <= admission.limit <= most
        admitted = [admission.admits(one) for one in Priority]
        assert admitted == sorted(admitted, reverse=True)
        if comes:
            expected = admission.admits(priority)
            assert admission.enter(priority) is expected
            taken += expected
            assert not expected or taken <= admission.limit
        elif taken:
            admission.leave()
            taken -= 1
        assert admission.in_flight == taken
    empty(admission)
    assert all(admission.admits(priority) for priority in Priority)


def test_a_standing_lag_cuts_the_limit_to_what_the_loop_serves_in_time() -> None:
    admission = Admission(256)
    seconds_each = 0.0001
    for _ in range(100):
        empty(admission)
        step(admission, fill(admission) * seconds_each)
    served_in_time = TARGET_LAG_S / seconds_each
    assert served_in_time * 0.6 < admission.limit <= served_in_time + 1


def test_a_worse_lag_cuts_more_but_never_below_what_keeps_a_loop_busy() -> None:
    slightly, badly = Admission(256), Admission(256)
    overload(slightly, TARGET_LAG_S * 1.1, 1)
    overload(badly, TARGET_LAG_S * 10, 1)
    assert badly.limit < slightly.limit < 256
    overload(badly, 1.0, 50)
    assert LEAST <= badly.limit <= LEAST + 1


def test_a_burst_is_no_overload() -> None:
    admission = Admission(256)
    fill(admission)
    for _ in range(100):
        admission.observe(1.0)
        for _ in range(LAGS_PER_STEP - 1):
            admission.observe(0.0)
    assert admission.limit == 256


def test_a_loop_that_others_hold_up_is_not_relieved_by_refusing_here() -> None:
    admission = Admission(256)
    for _ in range(100):
        admission.enter(Priority.USER)
        step(admission, 1.0)
    assert admission.limit == 256


def test_after_the_overload_the_limit_comes_back_and_beyond_calm_only_while_it_is_used() -> None:
    admission = Admission(256)
    overload(admission, 0.1, 50)
    step(admission, 0.0, times=CALM)
    assert admission.limit == CALM
    step(admission, 0.0, times=100)
    assert admission.limit == CALM
    for _ in range(300):
        fill(admission)
        step(admission, 0.0)
    assert admission.limit == 256

"""A caller that stops asking what does not answer."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import DeadlineExceeded, DomainError, Exhausted, Internal, NotFound, Unavailable
from foundation.model.clock import Millis
from foundation.rpc.throttle import BUCKET_S, BUCKETS, FEWEST, GREATEST, Throttle

WINDOW_S = BUCKETS * BUCKET_S


class HandClock:
    """Moves when told."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def now_ms(self) -> Millis:
        return Millis(int(self.now_s * 1_000))

    def monotonic(self) -> float:
        return self.now_s


class Seeded:
    """The same bytes in every run."""

    def __init__(self, seed: int) -> None:
        self._state = seed.to_bytes(8)

    def token_bytes(self, n: int) -> bytes:
        self._state = hashlib.sha256(self._state).digest()
        return self._state[:n]


class Service:
    """Asked through a throttle; counts what arrives."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = HandClock()
        self.throttle = Throttle("rank_svc", self.clock, Seeded(seed))
        self.asked = 0

    def ask(self, times: int, answer: BaseException | None = None, *, per_s: float = 100) -> None:
        for _ in range(times):
            self.clock.now_s += 1 / per_s
            try:
                with self.throttle:
                    self.asked += 1
                    if answer is not None:
                        raise answer
            except (DomainError, asyncio.CancelledError):
                pass


DOWN = Unavailable("UNAVAILABLE")


@pytest.mark.parametrize("answer", [DOWN, Exhausted("OVERLOADED"), DeadlineExceeded("DEADLINE_EXCEEDED")])
def test_a_service_that_takes_nothing_is_hardly_asked_any_more(answer: DomainError) -> None:
    service = Service()
    service.ask(2_000, answer)
    assert service.throttle.refused_share() == GREATEST
    assert 2_000 * (1 - GREATEST) < service.asked < 2_000 * 0.16


@pytest.mark.parametrize("answer", [None, NotFound("POST_NOT_FOUND"), Internal("INTERNAL")])
def test_every_other_answer_is_one(answer: DomainError | None) -> None:
    service = Service()
    service.ask(1_000, answer)
    assert service.asked == 1_000


@given(st.integers(1, 5), st.integers(0, 3))
def test_one_that_takes_half_of_the_calls_is_asked_almost_as_before(run: int, seed: int) -> None:
    service = Service(seed)
    for _ in range(2_000 // run):
        service.ask(run)
        service.ask(run, DOWN)
    assert service.asked > 0.85 * 2 * run * (2_000 // run)


def test_what_is_refused_here_counts_so_that_a_quarter_taken_is_half_sent() -> None:
    service = Service()
    taken_per_s, offered_per_s = 25, 100
    for _ in range(60):  # the service takes 25 a second of whatever arrives
        before = service.asked
        for _ in range(offered_per_s):
            service.ask(1, None if service.asked - before < taken_per_s else DOWN, per_s=offered_per_s)
    sent_in_the_last = service.asked - before
    assert taken_per_s * 1.3 < sent_in_the_last < taken_per_s * 2.8


def test_a_few_failures_of_a_seldom_asked_service_stop_nobody() -> None:
    service = Service()
    service.ask(500, DOWN, per_s=(FEWEST - 2) / WINDOW_S)
    assert service.asked == 500


def test_a_service_that_is_back_is_asked_by_all_within_three_windows() -> None:
    service = Service()
    service.ask(3_000, DOWN)
    service.ask(int(3 * WINDOW_S * 100))
    before = service.asked
    service.ask(100)
    assert service.asked - before == 100


def test_many_at_once_after_a_quiet_time_are_all_sent_and_a_cancelled_one_is_forgotten() -> None:
    service = Service()
    for _ in range(500):
        service.throttle.__enter__()
    assert service.throttle.refused_share() == 0
    for _ in range(500):
        service.throttle.__exit__(asyncio.CancelledError, None, None)
    service.ask(FEWEST - 1, DOWN)
    assert service.asked == FEWEST - 1


def test_those_in_flight_are_held_to_succeed_only_until_it_is_known() -> None:
    service = Service()
    for _ in range(500):
        service.throttle.__enter__()
    for _ in range(500):
        service.throttle.__exit__(DeadlineExceeded, None, None)
    assert service.throttle.refused_share() == GREATEST

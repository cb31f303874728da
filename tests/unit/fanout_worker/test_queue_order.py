"""The order of chunks that wait together, and the limit on some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_worker.model import Chunk
from fanout_worker.stages.budget import Budget
from fanout_worker.stages.fair_order import fair_order
from foundation.model.clock import Millis


def chunk(author_id: int, *, rate_limited: bool = False) -> Chunk:
    return Chunk(
        author_id=author_id,
        post_ids=[1],
        followers=np.array([1], dtype=np.int64),
        number=1,
        last=False,
        created_ms=0,
        rate_limited=rate_limited,
    )


@dataclass
class HandClock:
    """Stands where the test puts it."""

    s: float = 0.0

    def now_ms(self) -> Millis:
        return Millis(round(self.s * 1_000))

    def monotonic(self) -> float:
        return self.s


def test_authors_take_turns() -> None:
    ana, bo, cy = 1, 2, 3
    assert fair_order([chunk(author) for author in (ana, ana, ana, bo, bo, cy)]) == [0, 3, 5, 1, 4, 2]


def test_what_is_limited_holds_up_nothing() -> None:
    assert fair_order([chunk(1, rate_limited=True), chunk(2), chunk(1), chunk(2)]) == [1, 2, 3, 0]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40))
def test_every_chunk_has_its_turn_and_none_overtakes_an_earlier_one_of_its_author(
    made: list[tuple[int, bool]],
) -> None:
    order = fair_order([chunk(author, rate_limited=limited) for author, limited in made])
    assert sorted(order) == list(range(len(made)))
    for whose in set(made):
        places = [place for place in order if made[place] == whose]
        assert places == sorted(places)


def test_the_budget_is_kept_and_not_saved() -> None:
    clock = HandClock()
    budget = Budget(updates_per_s=1_000, clock=clock)
    assert budget.spend(500, share=1.0) == 0
    assert budget.spend(500, share=1.0) == pytest.approx(0.5)
    assert budget.spend(500, share=0.5) == pytest.approx(1.0)
    clock.s = 100.0
    assert budget.spend(1_000, share=1.0) == 0
    assert budget.spend(1, share=0.0) == pytest.approx(1.0)
    assert budget.spend(1, share=1.0) == pytest.approx(1.1)

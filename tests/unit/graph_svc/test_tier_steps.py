"""Authors move between tiers without swinging, and are never pulled alone while a follower has no mark."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.model.tiers import Tier
from foundation.runtime.settings import SettingsInvalid, from_environment
from graph_svc.model import Borders, Crossing, Standing, Step, mark_of
from graph_svc.settings import Settings
from graph_svc.stages.tier_steps import needs_marks, next_step

BORDERS = Borders(pull_from=10, super_from=30, down_for_ms=100)
REST = {Tier.PUSH, Tier.PULL, Tier.SUPER}


def at(tier: Tier, crossing: Crossing | None, followers: int, since_ms: int = 0) -> Standing:
    return Standing(1, tier, crossing, since_ms, followers)


def after(standing: Standing, *, marked: bool = False, now_ms: int = 0) -> Step | None:
    return next_step(standing, marked=marked, now_ms=now_ms, borders=BORDERS)


UP, DOWN = Crossing.UP, Crossing.DOWN


@pytest.mark.parametrize(
    ("standing", "marked", "step"),
    [
        (at(Tier.PUSH, None, 9), False, None),
        (at(Tier.PUSH, None, 10), False, Step(Tier.BOTH, UP)),
        (at(Tier.PUSH, DOWN, 10), True, Step(Tier.BOTH, UP)),
        (at(Tier.PUSH, DOWN, 3), False, None),
        (at(Tier.PUSH, DOWN, 3), True, Step(Tier.PUSH, None)),
        (at(Tier.BOTH, UP, 10), False, None),
        (at(Tier.BOTH, UP, 9), True, Step(Tier.PULL, None)),
        (at(Tier.BOTH, UP, 8), True, Step(Tier.PUSH, DOWN)),
        (at(Tier.PULL, None, 9), False, None),
        (at(Tier.PULL, None, 8), False, Step(Tier.BOTH, DOWN)),
        (at(Tier.PULL, None, 30), False, Step(Tier.SUPER, UP)),
        (at(Tier.PULL, DOWN, 8), False, None),
        (at(Tier.PULL, DOWN, 8), True, Step(Tier.PULL, None)),
        (at(Tier.SUPER, UP, 30), True, Step(Tier.SUPER, None)),
        (at(Tier.SUPER, None, 27), False, None),
        (at(Tier.SUPER, None, 3), False, Step(Tier.PULL, DOWN)),
        (at(Tier.BOTH, DOWN, 9), False, None),
        (at(Tier.BOTH, DOWN, 10), False, Step(Tier.PULL, None)),
    ],
)
def test_the_table(standing: Standing, marked: bool, step: Step | None) -> None:
    assert after(standing, marked=marked) == step


def test_down_takes_its_time_and_counts_from_the_change() -> None:
    going_down = at(Tier.BOTH, DOWN, 3, since_ms=1_000)
    assert after(going_down, now_ms=1_099) is None
    assert after(going_down, now_ms=1_100) == Step(Tier.PUSH, DOWN)


@dataclass
class Author:
    """An author with the marks that the follow, the consumer and the job set."""

    marks: dict[int, int] = field(default_factory=dict)
    standing: Standing = field(default_factory=lambda: at(Tier.PUSH, None, 0))
    now_ms: int = 0

    def follow(self, follower: int) -> None:
        self.marks[follower] = mark_of(self.standing.tier)
        self.look()

    def unfollow(self, follower: int) -> None:
        self.marks.pop(follower, None)
        self.look()

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.look()

    def job(self, share: int) -> None:
        """Marks the first *share* tenths; only a job that comes to the end says so."""
        if needs_marks(self.standing):
            followers = list(self.marks)
            for follower in followers[: len(followers) * share // 10]:
                self.marks[follower] = mark_of(self.standing.tier)
            self.look(marked=share == 10)

    def look(self, *, marked: bool = False) -> None:
        self.standing = replace(self.standing, follower_count=len(self.marks))
        step = next_step(self.standing, marked=marked, now_ms=self.now_ms, borders=BORDERS)
        if step is not None:
            self.standing = replace(self.standing, tier=step.tier, crossing=step.crossing, since_ms=self.now_ms)

    def check(self) -> None:
        tier, crossing = self.standing.tier, self.standing.crossing
        if tier >= Tier.PULL or (tier, crossing) == (Tier.BOTH, DOWN):
            assert all(self.marks.values()), "a follower of a pulled author has no mark"
        if (tier, crossing) == (Tier.BOTH, DOWN):
            assert set(self.marks.values()) <= {Tier.PULL}
        if crossing is None:
            assert set(self.marks.values()) <= {mark_of(tier)}, "at rest every mark tells the tier"


actions = st.lists(
    st.one_of(
        st.tuples(st.just("follow"), st.integers(1, 40)),
        st.tuples(st.just("unfollow"), st.integers(1, 40)),
        st.tuples(st.just("crowd"), st.integers(1, 40)),
        st.tuples(st.just("leave"), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.integers(1, 150)),
        st.tuples(st.just("job"), st.integers(0, 10)),
        st.tuples(st.just("job"), st.just(10)),
    ),
    max_size=60,
)


@given(actions)
def test_no_follower_of_a_pulled_author_is_without_a_mark(history: list[tuple[str, int]]) -> None:
    author = Author()
    for action, n in history:
        if action == "crowd":
            for follower in range(1, n + 1):
                author.follow(follower)
                author.check()
        elif action == "leave":
            for follower in range(n, 41):
                author.unfollow(follower)
                author.check()
        else:
            getattr(author, action)(n)
        author.check()


@given(st.sampled_from([(Tier.PUSH, 9, 9), (Tier.PULL, 9, 29), (Tier.SUPER, 27, 100)]), st.data())
def test_a_count_that_swings_inside_the_band_moves_nobody(where: tuple[Tier, int, int], data: st.DataObject) -> None:
    tier, lowest, highest = where
    lowest = 0 if tier is Tier.PUSH else lowest
    for count in data.draw(st.lists(st.integers(lowest, highest), max_size=20)):
        assert after(at(tier, None, count), now_ms=data.draw(st.integers(0, 10_000))) is None


@given(
    st.sampled_from(
        [
            (Tier.PUSH, None),
            (Tier.PUSH, DOWN),
            (Tier.BOTH, UP),
            (Tier.BOTH, DOWN),
            (Tier.PULL, None),
            (Tier.PULL, DOWN),
            (Tier.SUPER, UP),
            (Tier.SUPER, None),
        ]
    ),
    st.integers(0, 100),
)
def test_a_count_that_stays_brings_every_author_to_rest(start: tuple[Tier, Crossing | None], count: int) -> None:
    standing, now_ms, seen = at(*start, count), 0, []
    for _ in range(10):
        now_ms += BORDERS.down_for_ms
        step = next_step(standing, marked=needs_marks(standing), now_ms=now_ms, borders=BORDERS)
        if step is None:
            break
        seen.append(step)
        standing = replace(standing, tier=step.tier, crossing=step.crossing, since_ms=now_ms)
    assert standing.crossing is None
    assert standing.tier in REST
    assert len(seen) == len(set(seen)), "no author goes in circles"


def test_settings_that_cannot_be_are_refused_with_every_reason() -> None:
    wrong = {"FEEDMESH_TIER_PULL_FROM": "100", "FEEDMESH_TIER_SUPER_FROM": "100", "FEEDMESH_TIER_JOB_EVERY_S": "0"}
    with pytest.raises(SettingsInvalid) as refused:
        from_environment(Settings, wrong)
    assert "FEEDMESH_TIER_SUPER_FROM=100: must be more than FEEDMESH_TIER_PULL_FROM=100" in str(refused.value)
    assert "FEEDMESH_TIER_JOB_EVERY_S=0.0" in str(refused.value)


def test_small_borders_can_be_told() -> None:
    told = {"FEEDMESH_TIER_PULL_FROM": "3", "FEEDMESH_TIER_SUPER_FROM": "5", "FEEDMESH_TIER_DOWN_FOR_S": "1"}
    assert from_environment(Settings, told).borders() == Borders(pull_from=3, super_from=5, down_for_ms=1_000)

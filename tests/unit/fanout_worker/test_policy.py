"""Who is pushed: the table of the policies, and the law that nobody is pulled whom readers do not pull."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_worker.model import Level, NewPost, Route
from fanout_worker.settings import Settings
from fanout_worker.stages.policy import LARGE_FROM, Policy, PolicyName, is_large
from foundation.model.tiers import Tier
from foundation.runtime.settings import SettingsInvalid, from_environment

NAMES = get_args(PolicyName)
INLINE, CHUNKS, LIMITED, PULL = Route.INLINE, Route.CHUNKS, Route.RATE_LIMITED, Route.PULL

TABLE = [
    # followers, tier, then hybrid, rate_limited, push_only, pull_only
    (0, None, INLINE, INLINE, INLINE, INLINE),
    (0, Tier.PUSH, INLINE, INLINE, INLINE, INLINE),
    (0, Tier.BOTH, INLINE, INLINE, INLINE, INLINE),
    (0, Tier.PULL, PULL, PULL, INLINE, PULL),
    (0, Tier.SUPER, PULL, PULL, INLINE, PULL),
    (1, Tier.PUSH, INLINE, INLINE, INLINE, INLINE),
    (1_000, Tier.PUSH, INLINE, INLINE, INLINE, INLINE),
    (1_001, Tier.PUSH, CHUNKS, CHUNKS, CHUNKS, CHUNKS),
    (9_999, Tier.PUSH, CHUNKS, CHUNKS, CHUNKS, CHUNKS),
    (9_999, Tier.PULL, CHUNKS, CHUNKS, CHUNKS, PULL),
    (10_000, Tier.PULL, PULL, LIMITED, CHUNKS, PULL),
    (10_000, Tier.BOTH, CHUNKS, LIMITED, CHUNKS, CHUNKS),
    (10_000, Tier.PUSH, CHUNKS, LIMITED, CHUNKS, CHUNKS),
    (10_000, None, CHUNKS, LIMITED, CHUNKS, CHUNKS),
    (99_999, Tier.PULL, PULL, LIMITED, CHUNKS, PULL),
    (100_000, Tier.PULL, PULL, PULL, CHUNKS, PULL),
    (100_000, Tier.BOTH, CHUNKS, LIMITED, CHUNKS, CHUNKS),
    (1_000_000, Tier.SUPER, PULL, PULL, CHUNKS, PULL),
    (1_000_000, Tier.PUSH, CHUNKS, LIMITED, CHUNKS, CHUNKS),
]


@pytest.mark.parametrize(("followers", "tier", "hybrid", "limited", "push", "pull"), TABLE)
def test_the_table(followers: int, tier: Tier | None, hybrid: Route, limited: Route, push: Route, pull: Route) -> None:
    post = NewPost(1, 2, tier, followers)
    routes = {name: Policy(name=name).decide(post).route for name in NAMES}
    assert routes == {"hybrid": hybrid, "rate_limited": limited, "push_only": push, "pull_only": pull}


policies = st.builds(
    Policy,
    name=st.sampled_from(NAMES),
    inline_up_to=st.integers(1, 50),
    pull_from=st.integers(51, 100),
    rate_limited_up_to=st.integers(100, 200),
)
posts = st.builds(NewPost, st.just(1), st.just(2), st.one_of(st.none(), st.sampled_from(Tier)), st.integers(0, 300))


@given(policies, posts)
def test_only_authors_whom_every_follower_pulls_are_not_pushed(policy: Policy, post: NewPost) -> None:
    decision = policy.decide(post)
    if decision.route is Route.PULL:
        assert post.tier in (Tier.PULL, Tier.SUPER)
        assert policy.name != "push_only"
    assert decision.reason


@given(policies, posts, st.sampled_from(Level))
def test_at_level_3_nobody_is_pushed_and_below_it_the_level_changes_nothing(
    policy: Policy, post: NewPost, level: Level
) -> None:
    usual, now = policy.decide(post).route, policy.decide(post, level).route
    if level is Level.PULL_ALL:
        assert now is (Route.PULL if usual is Route.PULL else Route.GAP)
    else:
        assert now is usual


@given(policies, posts)
def test_nobody_is_delivered_at_once_to_more_than_the_border(policy: Policy, post: NewPost) -> None:
    assert (policy.decide(post).route is Route.INLINE) <= (post.followers <= policy.inline_up_to)


@pytest.mark.parametrize("followers", [0, 1, LARGE_FROM - 1, LARGE_FROM, 10**6])
def test_every_post_has_one_of_the_two_consumers(followers: int) -> None:
    assert is_large(NewPost(1, 2, Tier.PUSH, followers)) == (followers >= 1_001)


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"RATE_LIMIT_PER_S": "0"}, "rate_limit_per_s=0: must be 1 or more"),
        ({"PULL_FROM": "1000"}, "pull_from=1000: must be above inline_up_to=1000"),
        ({"INLINE_UP_TO": "0"}, "inline_up_to=0: must be 1 or more"),
        ({"RATE_LIMITED_UP_TO": "9999"}, "rate_limited_up_to=9999: must not be below pull_from=10000"),
        ({"FANOUT_POLICY": "push_most"}, "must be one of hybrid, rate_limited, push_only, pull_only"),
        ({"HIGHEST_LEVEL_BY_LAG": "4"}, "highest_level_by_lag=4: must be 0 to 3"),
        ({"MAX_CHUNKS": "0"}, "max_chunks=0: must be 1 or more"),
        ({"AUDIT_SECOND_S": "600"}, "audit_third_s=5, 600, 600: must ascend"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(environment: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsInvalid, match=fault):
        from_environment(Settings, {f"FEEDMESH_{name}": value for name, value in environment.items()})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings(rate_limit_per_s=0, pull_from=10, rate_limited_up_to=5)
    assert str(refused.value).count("\n") == 3

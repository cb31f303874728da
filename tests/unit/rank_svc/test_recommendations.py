"""Who is never recommended, and which posts are."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foundation.recommendations import MOST, decode_recommendations, encode_recommendations
from foundation.viewers import ViewerRecord
from foundation.visibility import UserState
from rank_svc.stages.recommendations import POSTS_OF_ONE, best_of_each, friends_of_friends

ANA = 1
some = st.frozensets(st.integers(1, 12), max_size=6)
viewers = st.builds(ViewerRecord, st.just(1), st.sampled_from(UserState), some, some, some)


@given(viewers, st.lists(viewers, max_size=5))
def test_nobody_who_is_followed_blocked_or_muted_is_found(viewer: ViewerRecord, followees: list[ViewerRecord]) -> None:
    found = dict(friends_of_friends(ANA, viewer, followees))
    assert not (viewer.follows | viewer.blocks | viewer.mutes | {ANA}).intersection(found)
    active = [followee.follows for followee in followees if followee.state is UserState.ACTIVE]
    assert all(count == sum(one in follows for follows in active) for one, count in found.items())


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=30), st.integers(0, 20))
def test_the_best_come_first_and_few_of_one(posts: list[tuple[int, int]], limit: int) -> None:
    ids = np.arange(1, len(posts) + 1)
    authors = np.array([author for author, _ in posts], dtype=np.int64)
    scores = np.array([score for _, score in posts], dtype=np.float32)
    chosen = best_of_each(ids, authors, scores, limit)
    assert len(chosen) <= limit
    assert chosen == sorted(chosen, key=lambda one: (-posts[one - 1][1], -one))
    assert all(count <= POSTS_OF_ONE for count in Counter(posts[one - 1][0] for one in chosen).values())


@given(st.lists(st.integers(1, 2**63 - 1), max_size=MOST + 5))
def test_what_is_packed_comes_back(ids: list[int]) -> None:
    assert decode_recommendations(encode_recommendations(ids, 7)) == (ids[:MOST], 7)
    assert decode_recommendations(b"\x02" + encode_recommendations(ids, 7)[1:]) is None
    assert decode_recommendations(b"") is None

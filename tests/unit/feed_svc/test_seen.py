"""Marks change the order of a head and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feed_svc.model import HEAD_CAPACITY, NOTHING_SEEN, Ranked, Seen
from feed_svc.stages.seen import unseen_first, worth_ranking

posts = st.lists(st.integers(1, 900), unique=True, max_size=600)


def marks(*post_ids: int) -> Seen:
    return np.array(sorted(post_ids), np.int64)


def test_unseen_posts_come_first_and_both_keep_their_order() -> None:
    ranked = Ranked([5, 9, 2, 7], [50, 90, 20, 70])
    assert unseen_first(ranked, marks(9, 5, 1)) == Ranked([2, 7, 5, 9], [20, 70, 50, 90])


def test_without_marks_nothing_changes() -> None:
    ranked = Ranked([5, 9], [50, 90])
    assert unseen_first(ranked, NOTHING_SEEN) is ranked
    assert unseen_first(ranked, marks(1, 7, 99)) is ranked
    assert unseen_first(Ranked([], []), marks(1)) == Ranked([], [])


@given(posts, posts)
def test_a_mark_drops_nothing_and_adds_nothing(ids: list[int], seen: list[int]) -> None:
    shown = unseen_first(Ranked(ids, [post_id + 1 for post_id in ids]), marks(*seen))
    assert list(shown.ids) == [x for x in ids if x not in set(seen)] + [x for x in ids if x in set(seen)]
    assert list(shown.author_ids) == [post_id + 1 for post_id in shown.ids]


@given(posts, posts)
def test_no_seen_post_takes_the_place_of_an_unseen_one_in_a_head(candidates: list[int], seen: list[int]) -> None:
    candidates.sort(reverse=True)
    chosen = list(worth_ranking(candidates, marks(*seen)))
    unseen = [post_id for post_id in candidates if post_id not in set(seen)]
    assert [post_id for post_id in chosen if post_id not in set(seen)] == unseen
    assert chosen == [post_id for post_id in candidates if post_id in set(chosen)], "in their order"
    assert len(chosen) >= min(HEAD_CAPACITY, len(candidates)), "a head is as full as without marks"
    if len(unseen) != len(candidates):
        assert len(chosen) <= max(HEAD_CAPACITY, len(unseen))

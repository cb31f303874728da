"""Candidates: the floor is respected, merging loses nothing above it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed_svc.stages.candidates import before, merge_recent, newest_first
from foundation.timeline.port import CAPACITY, Timeline

posts = st.lists(st.integers(1, 3_000), unique=True, max_size=700)


def test_ids_at_or_below_the_floor_are_left_out() -> None:
    own = Timeline((90, 40), 0)
    assert newest_first(Timeline((80, 70), 60), own, oldest_id=0) == [90, 80, 70]


def test_an_own_post_is_there_before_it_was_pushed() -> None:
    assert newest_first(Timeline((80,), 1), Timeline((85, 80), 0), oldest_id=0) == [85, 80]


def test_posts_older_than_the_feed_goes_back_are_left_out() -> None:
    assert newest_first(Timeline((80, 70), 1), None, oldest_id=75) == [80]


@given(st.lists(posts, min_size=1, max_size=4))
def test_a_merge_is_complete_above_its_floor(authors: list[list[int]]) -> None:
    sources = [Timeline(tuple(sorted(ids, reverse=True)[:CAPACITY]), _floor(ids)) for ids in authors]
    merged, floor = merge_recent(sources, floor=0)
    everything = {post_id for ids in authors for post_id in ids}
    assert merged == sorted((post_id for post_id in everything if post_id > floor), reverse=True)
    assert len(merged) <= CAPACITY
    assert len(merged) == min(CAPACITY, len(everything))


def _floor(ids: list[int]) -> int:
    kept_out = sorted(ids, reverse=True)[CAPACITY:]
    return kept_out[0] if kept_out else 0


@given(posts, st.integers(0, 3_000))
def test_before_splits_without_gap_or_repeat(ids: list[int], cut: int) -> None:
    descending = sorted(ids, reverse=True)
    tail = before(descending, cut)
    if cut:
        assert [*(post_id for post_id in descending if post_id >= cut), *tail] == descending
    else:
        assert tail == descending

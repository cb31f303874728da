"""Candidates: the floor is respected, merging loses nothing above it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed_svc.model import Stretch
from feed_svc.stages.candidates import before, newest_first, newest_of_few, own_posts_wait, with_pulled
from foundation.timeline.port import CAPACITY, Timeline

posts = st.lists(st.integers(1, 3_000), unique=True, max_size=700)


def test_ids_at_or_below_the_floor_are_left_out() -> None:
    own = Timeline((90, 40), 0)
    assert newest_first(Timeline((80, 70), 60), own, oldest_id=0) == [90, 80, 70]


def test_an_own_post_is_there_before_it_was_pushed() -> None:
    assert newest_first(Timeline((80,), 1), Timeline((85, 80), 0), oldest_id=0) == [85, 80]


def test_own_posts_that_wait_to_be_pushed_are_asked_for_where_the_newest_are_not_all() -> None:
    newest = Timeline((95, 90), 85)
    assert own_posts_wait(Timeline((80, 70), 10), newest, oldest_id=0), "85 may not be in it either"
    assert not own_posts_wait(Timeline((90, 80), 10), newest, oldest_id=0), "what is older was pushed before"
    assert not own_posts_wait(Timeline((80, 70), 10), Timeline((95, 90), 5), oldest_id=0), "these are all"
    assert not own_posts_wait(Timeline((80, 70), 10), newest, oldest_id=85)
    assert not own_posts_wait(Timeline((80, 70), 10), Timeline((), 85), oldest_id=0)


def test_posts_older_than_the_feed_goes_back_are_left_out() -> None:
    assert newest_first(Timeline((80, 70), 1), None, oldest_id=75) == [80]


def test_own_posts_beside_a_full_list_push_nothing_out() -> None:
    listed = Timeline(tuple(range(CAPACITY + 10, 10, -1)), 10)
    own = Timeline((CAPACITY + 30, CAPACITY + 20), 0)
    assert len(newest_first(listed, own, oldest_id=0)) == CAPACITY + 2, "the floor would have to rise otherwise"


def stretch(ids: list[int], floor: int) -> Stretch:
    return Stretch(sorted((post_id for post_id in ids if post_id > floor), reverse=True), floor)


@given(posts, posts, st.integers(0, 3_000), st.integers(0, 3_000))
def test_list_and_pulled_are_complete_above_the_greater_floor(
    listed: list[int], pulled: list[int], floor: int, other: int
) -> None:
    merged = with_pulled(stretch(listed, floor), stretch(pulled, other))
    assert merged == stretch([*{*listed, *pulled}], max(floor, other))


def test_a_list_goes_on_without_pulled_authors_that_cannot_be_read() -> None:
    merged = with_pulled(Stretch((90, 70, 50), 40), Stretch((80,), 75, missing=True, loose=(60, 30)))
    assert merged == Stretch([90, 80, 70, 60, 50], 40, missing=True)


@given(posts, st.integers(0, 3_000))
def test_before_splits_without_gap_or_repeat(ids: list[int], cut: int) -> None:
    descending = sorted(ids, reverse=True)
    tail = before(descending, cut)
    if cut:
        assert [*(post_id for post_id in descending if post_id >= cut), *tail] == descending
    else:
        assert tail == descending


def test_of_many_pulled_authors_those_who_posted_last_get_into_a_head() -> None:
    parts = [Timeline((100 + author, 50 + author), 0) for author in range(10)]
    assert newest_of_few([*parts, Timeline((), 0)], authors=2, limit=9, after_id=0) == [109, 108, 59, 58]
    assert newest_of_few(parts, authors=3, limit=2, after_id=0) == [109, 108]
    assert newest_of_few(parts, authors=2, limit=9, after_id=58) == [109, 108, 59]

"""The walk down authors' timelines is the model, whatever their floors, whatever moves between its rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from feed_svc.adapters.author_posts import part_below
from feed_svc.model import Stretch
from feed_svc.stages.walk import LEAST_PER_AUTHOR, merge_parts, newest_of, walk_down
from foundation.model.ids import MAX_ID
from foundation.timeline.port import Timeline

AFTER = 100
TOP = 4_000
worlds = st.dictionaries(
    st.integers(1, 6), st.lists(st.integers(AFTER + 1, TOP), unique=True, max_size=120), min_size=1
)


class Store:
    """Authors' posts as plain lists. Floors move with every question; some authors may be silent."""

    def __init__(self, posts: Mapping[int, Sequence[int]], silent: Sequence[int] = ()) -> None:
        self.posts = posts
        self.silent = set(silent)
        self.read = 0
        self.asked: list[int] = []

    async def below(
        self, author_ids: Sequence[int], *, before_id: int, after_id: int, limit: int, hot: Collection[int] = ()
    ) -> Mapping[int, Timeline]:
        assert not hot
        self.asked.append(before_id)
        parts = {
            author: part_below(
                Timeline(sorted(self.posts[author], reverse=True), after_id), before_id=before_id, limit=limit
            )
            for author in author_ids
            if author not in self.silent
        }
        self.read += sum(len(part.ids) for part in parts.values())
        return parts


def everything(posts: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted({post for mine in posts.values() for post in mine}, reverse=True)


@given(worlds, st.integers(1, 60))
def test_walking_to_the_end_is_the_model_without_gap_or_repeat(posts: dict[int, list[int]], wanted: int) -> None:
    store = Store(posts)
    walked: list[int] = []
    before_id = MAX_ID
    while before_id - 1 > AFTER:
        part = asyncio.run(walk_down(store, [*posts], before_id=before_id, after_id=AFTER, wanted=wanted))
        assert part.floor < before_id - 1, "every walk gets on"
        assert not part.missing
        walked += part.ids
        before_id = part.floor + 1
    assert walked == everything(posts)


@given(worlds, st.integers(AFTER, TOP))
def test_a_walk_from_anywhere_is_complete_down_to_its_floor(posts: dict[int, list[int]], before_id: int) -> None:
    part = asyncio.run(walk_down(Store(posts), [*posts], before_id=before_id, after_id=AFTER, wanted=20))
    assert list(part.ids) == [post for post in everything(posts) if part.floor < post < before_id]


def test_a_silent_author_ends_the_walk_where_it_is() -> None:
    store = Store({1: [500, 400], 2: [450]}, silent=[2])
    part = asyncio.run(walk_down(store, [1, 2], before_id=MAX_ID, after_id=AFTER, wanted=20))
    assert part == Stretch([], MAX_ID - 1, missing=True, loose=[500, 400])


def test_a_page_deep_down_reads_nothing_of_what_lies_above() -> None:
    posts = {author: list(range(AFTER + author, AFTER + 100 * 400, 100)) for author in range(1, 100)}
    store = Store(posts)
    part = asyncio.run(walk_down(store, [*posts], before_id=AFTER + 3_000, after_id=AFTER, wanted=24))
    assert len(part.ids) >= 24
    assert store.read <= 2 * LEAST_PER_AUTHOR * len(posts)
    assert max(store.asked) == AFTER + 3_000


@given(st.lists(st.tuples(st.lists(st.integers(1, 300), unique=True), st.integers(0, 300)), min_size=1, max_size=5))
def test_parts_are_merged_above_the_greatest_floor_only(parts: list[tuple[list[int], int]]) -> None:
    timelines = [Timeline(sorted((post for post in ids if post > floor), reverse=True), floor) for ids, floor in parts]
    merged, floor = merge_parts(timelines, after_id=AFTER)
    assert floor == max([AFTER, *(floor for _, floor in parts)])
    assert merged == sorted({post for ids, _ in parts for post in ids if post > floor}, reverse=True)


def test_what_does_not_fit_is_the_floor() -> None:
    assert newest_of(Stretch([9, 7, 5], 2), 2) == Stretch([9, 7], 5)
    assert newest_of(Stretch([9, 7, 5], 2), 3) == Stretch([9, 7, 5], 2)

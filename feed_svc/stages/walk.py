"""The walk down the timelines of authors: their posts newest first from a bound, without what lies above it (rule 8).

A few ids of every author are read at once. They are complete above the greatest floor among them; from there the next
round goes on. So a page costs what it shows, however deep it lies and however much lies above it: with 200 authors
0.3 ms of CPU here and 1 ms in all, with 7,500 of 25 posts each 13 ms and 60 (2 cores, one Valkey, busy machine).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from feed_svc.model import Stretch
from feed_svc.ports import AuthorPosts
from foundation.timeline.port import CAPACITY, Timeline

MAX_ROUNDS = 8
"""Each reads twice as many ids an author as the one before; what is not reached is for the next page."""
LEAST_PER_AUTHOR = 8
"""Ids read of each author at first: more than most write in the time that a page spans."""
GENEROSITY = 8
"""How many times the ids wanted are read at first, shared among the authors."""


async def walk_down(
    author_posts: AuthorPosts,
    author_ids: Sequence[int],
    *,
    before_id: int,
    after_id: int,
    wanted: int,
    hot: Collection[int] = (),
) -> Stretch:
    """The posts of *author_ids* between the bounds, both exclusive, newest first, until there are *wanted* or no more.

    May stop short of *wanted*, but always gets on. Stops where an author could not be read: nothing may be shown below
    that is not known to be the next.
    """
    ids: list[int] = []
    floor = before_id - 1
    limit = min(CAPACITY, max(LEAST_PER_AUTHOR, GENEROSITY * wanted // max(1, len(author_ids))))
    for _ in range(MAX_ROUNDS):
        if floor <= after_id or len(ids) >= wanted:
            break
        parts = await author_posts.below(author_ids, before_id=floor + 1, after_id=after_id, limit=limit, hot=hot)
        newer, lower = merge_parts(parts.values(), after_id=after_id)
        if len(parts) < len(author_ids):
            return Stretch(ids, floor, missing=True, loose=newer)
        ids += newer
        floor = lower
        limit = min(CAPACITY, 2 * limit)
    return Stretch(ids, floor)


def newest_of(stretch: Stretch, limit: int) -> Stretch:
    """The *limit* newest ids of *stretch*; the first that did not fit is the floor."""
    if len(stretch.ids) <= limit:
        return stretch
    return replace(stretch, ids=stretch.ids[:limit], floor=stretch.ids[limit])


def merge_parts(parts: Iterable[Timeline], *, after_id: int) -> tuple[list[int], int]:
    """Ids of *parts* above the floor above which they are complete, newest first, and that floor.

    It is the greatest of *after_id* and the floors of the parts: below it one of them may lack something.
    """
    parts = list(parts)
    floor = max([after_id, *(part.floor for part in parts)])
    return sorted({post_id for part in parts for post_id in part.ids if post_id > floor}, reverse=True), floor

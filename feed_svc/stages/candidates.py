"""Candidates: what may be in this feed at all, newest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.timeline.port import CAPACITY, Timeline


def newest_first(timeline: Timeline, own: Timeline | None, *, oldest_id: int) -> Sequence[int]:
    """Ids of the timeline and the viewer's own posts, strictly descending, at most CAPACITY, none below *oldest_id*.

    The viewer's own posts are pushed into their timeline too; `own` only makes them visible at once. Ids at or below
    the timeline's floor are left out: below it the timeline says nothing about anybody else.
    """
    ids = timeline.ids
    if ids and ids[-1] < oldest_id:
        ids = [post_id for post_id in ids if post_id >= oldest_id]
    if own is not None and own.ids:
        lowest = max(timeline.floor + 1, oldest_id)
        recent = [post_id for post_id in own.ids if post_id >= lowest]
        fresh = set(recent).difference(ids) if recent else ()
        if fresh:
            ids = sorted([*ids, *fresh], reverse=True)
    return ids[:CAPACITY]


def merge_recent(sources: Sequence[Timeline], *, floor: int) -> tuple[list[int], int]:
    """The newest CAPACITY ids of *sources* and the floor above which they are complete.

    The floor is the greatest of *floor*, the sources' floors and the ids that did not fit.
    """
    complete_above = max([floor, *(source.floor for source in sources)])
    merged = sorted({post_id for source in sources for post_id in source.ids if post_id > complete_above}, reverse=True)
    if len(merged) > CAPACITY:
        complete_above = merged[CAPACITY]
    return merged[:CAPACITY], complete_above


def before(ids: Sequence[int], before_id: int) -> Sequence[int]:
    """The part of descending *ids* below *before_id*; all of them for 0."""
    if before_id == 0:
        return ids
    return [post_id for post_id in ids if post_id < before_id]

"""Candidates: what may be in this feed at all, newest first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from feed_svc.model import Ranked, Stretch
from foundation.timeline.port import Timeline
from foundation.viewers import ViewerRecord


def newest_first(timeline: Timeline, own: Timeline | None, *, oldest_id: int) -> Sequence[int]:
    """Ids of the timeline and the viewer's own posts, strictly descending, all above *oldest_id*.

    The viewer's own posts are pushed into their timeline too; `own` only makes them visible at once. Ids at or below
    the timeline's floor are left out: below it the timeline says nothing about anybody else.
    """
    ids = timeline.ids
    if ids and ids[-1] <= oldest_id:
        ids = [post_id for post_id in ids if post_id > oldest_id]
    if own is not None and own.ids:
        floor = max(timeline.floor, oldest_id)
        recent = [post_id for post_id in own.ids if post_id > floor]
        fresh = set(recent).difference(ids) if recent else ()
        if fresh:
            ids = sorted([*ids, *fresh], reverse=True)
    return ids


def own_posts_wait(timeline: Timeline, own: Timeline, *, oldest_id: int) -> bool:
    """Whether more of the viewer's posts may be missing in their *timeline* than the newest, which *own* is made of."""
    if own.floor <= max(timeline.floor, oldest_id) or not own.ids:
        return False
    return own.ids[-1] not in timeline.ids


def with_pulled(listed: Stretch, pulled: Stretch) -> Stretch:
    """The list's part of a feed and that of the pulled authors from the same bound as one: complete where both are.

    A post that was pushed and is pulled as well comes once. Where a pulled author could not be read the list goes on
    without.
    """
    floor = listed.floor if pulled.missing else max(listed.floor, pulled.floor)
    ids = {post_id for post_id in (*listed.ids, *pulled.ids, *pulled.loose) if post_id > floor}
    return Stretch(sorted(ids, reverse=True), floor, pulled.missing)


def newest_of_few(parts: Sequence[Timeline], *, authors: int, limit: int, after_id: int) -> list[int]:
    """The newest *limit* ids above *after_id* of those *authors* of *parts* whose newest post is newest."""
    posted = sorted((part for part in parts if part.ids), key=lambda part: part.ids[0], reverse=True)[:authors]
    return sorted((post_id for part in posted for post_id in part.ids if post_id > after_id), reverse=True)[:limit]


def without_known(ranked: Ranked, recommended: Collection[int], *, viewer_id: int, viewer: ViewerRecord) -> Ranked:
    """*ranked* without *recommended* posts by the viewer or whom they follow: those come as all that is followed does.

    Recommendations are up to an hour old and name no authors; ranking tells who wrote what.
    """
    if not recommended:
        return ranked
    author_ids, follows = ranked.author_ids, viewer.follows
    places = [place for place, post_id in enumerate(ranked.ids) if post_id in recommended]
    known = {ranked.ids[place] for place in places if author_ids[place] in follows or author_ids[place] == viewer_id}
    if not known:
        return ranked
    kept = [place for place, post_id in enumerate(ranked.ids) if post_id not in known]
    return Ranked(
        [ranked.ids[place] for place in kept], [ranked.author_ids[place] for place in kept], ranked.features_whole
    )


def before(ids: Sequence[int], before_id: int) -> Sequence[int]:
    """The part of descending *ids* below *before_id*; all of them for 0."""
    if before_id == 0:
        return ids
    return [post_id for post_id in ids if post_id < before_id]

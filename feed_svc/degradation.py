"""What a feed does without each of its dependencies: one table, shown in docs/degradation.md and walked by tests.

Whatever fails, an answer comes within ANSWER_WITHIN_MS, says why it is less than perfect, and shows nothing that was
not checked. Nothing is said where nothing was skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

from feed_svc.model import Degraded

ANSWER_WITHIN_MS = 500
"""Seed section 10.3."""


class Dependency(Enum):
    """What a feed is made with."""

    FEED_CACHE = "feed cache"
    AUTHOR_TIMELINES = "author timelines"
    CARDS = "cards and author records"
    SESSIONS = "session store"
    WHOLE_CACHE = "whole cache"
    FEATURES = "features"
    RECOMMENDATIONS = "recommendations"
    RECOMMENDER = "who makes recommendations"
    RANK = "rank"
    GRAPH = "graph"
    POSTS = "post store"
    PRIVACY_LOG = "privacy log"


class Way(Enum):
    """How it fails."""

    SLOW = "slow"
    """Its answer does not come in time."""
    FAILING = "failing"
    """It answers with errors."""
    GARBAGE = "garbage"
    """It answers what nobody can read."""
    GONE = "gone"
    """Nobody is there."""


ALL = tuple(Way)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One promise."""

    dependency: Dependency
    ways: tuple[Way, ...] = ALL
    when: str
    """What the request needs of it."""
    fallback: str
    reason: Degraded | None = None
    """What the answer says; None: it is NORMAL, or an error."""
    error: str = ""
    """The reason of the error that comes instead of an answer."""
    waits_ms: int
    """How long a request waits for it before it goes on without."""


TABLE = (
    Row(
        dependency=Dependency.FEED_CACHE,
        when="any page",
        fallback="newest first, of the followees' posts; goes on without a session (SESSION_UNAVAILABLE as well)",
        reason=Degraded.CACHE_UNAVAILABLE,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.AUTHOR_TIMELINES,
        when="who pulls, or reads below the list",
        fallback="the rows of the post store",
        reason=Degraded.CACHE_UNAVAILABLE,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.CARDS,
        ways=(Way.SLOW, Way.FAILING, Way.GONE),
        when="any page",
        fallback="the records of post_svc and graph_svc; FEED_PARTIAL as well where gaps cannot be read",
        reason=Degraded.CACHE_UNAVAILABLE,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.CARDS,
        ways=(Way.GARBAGE,),
        when="any page",
        fallback="a layout that nobody knows is a miss: the records of their owners",
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.SESSIONS,
        ways=(Way.SLOW, Way.FAILING, Way.GONE),
        when="a first RANKED page",
        fallback="newest first; goes on without a session",
        reason=Degraded.SESSION_UNAVAILABLE,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.SESSIONS,
        ways=(Way.SLOW, Way.FAILING, Way.GONE),
        when="a later RANKED page",
        fallback="none: another order would repeat posts",
        error="CACHE_UNAVAILABLE",
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.SESSIONS,
        ways=(Way.GARBAGE,),
        when="a later RANKED page",
        fallback="none: the session is lost",
        error="CURSOR_EXPIRED",
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.WHOLE_CACHE,
        when="any first page",
        fallback="everything from the owners, newest first",
        reason=Degraded.CACHE_UNAVAILABLE,
        waits_ms=300,
    ),
    Row(
        dependency=Dependency.FEATURES,
        ways=(Way.SLOW, Way.FAILING, Way.GONE),
        when="a first RANKED page with posts that rank_svc does not know yet",
        fallback="these are ranked with default features",
        reason=Degraded.FEATURES_UNAVAILABLE,
        waits_ms=50,
    ),
    Row(
        dependency=Dependency.FEATURES,
        ways=(Way.GARBAGE,),
        when="a first RANKED page with posts that rank_svc does not know yet",
        fallback="a layout that nobody knows is a miss: default features",
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.RECOMMENDATIONS,
        ways=(Way.FAILING, Way.GARBAGE, Way.GONE),
        when="a first RANKED page",
        fallback="the page without them",
        reason=Degraded.RECOMMENDATIONS_UNAVAILABLE,
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.RECOMMENDATIONS,
        ways=(Way.SLOW,),
        when="a first RANKED page",
        fallback="as without the feed cache, whose node they lie on: they are read in the same call as the list",
        reason=Degraded.CACHE_UNAVAILABLE,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.RECOMMENDER,
        ways=(Way.SLOW, Way.FAILING, Way.GARBAGE),
        when="a first RANKED page of a viewer who has no recommendations, or old ones",
        fallback="those of the last hour, then none: it is not known whether there would be any",
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.RANK,
        when="a first RANKED page",
        fallback="newest first, the same posts",
        reason=Degraded.RANK_FALLBACK,
        waits_ms=100,
    ),
    Row(
        dependency=Dependency.GRAPH,
        when="a viewer whose record is in the cache",
        fallback="none is needed: the record is at most an hour old, and blocks are heard of from the log",
        waits_ms=0,
    ),
    Row(
        dependency=Dependency.GRAPH,
        when="a viewer whose record is not in the cache",
        fallback="none: whom the viewer blocks is not known",
        error="FEED_UNAVAILABLE",
        waits_ms=250,
    ),
    Row(
        dependency=Dependency.GRAPH,
        when="posts of authors whose records are not in the cache",
        fallback="these posts are left out; FEED_UNAVAILABLE where none is left",
        reason=Degraded.POSTS_UNAVAILABLE,
        waits_ms=250,
    ),
    Row(
        dependency=Dependency.POSTS,
        when="posts whose cards are not in the cache",
        fallback="these posts are left out; FEED_UNAVAILABLE where none is left",
        reason=Degraded.POSTS_UNAVAILABLE,
        waits_ms=200,
    ),
    Row(
        dependency=Dependency.POSTS,
        when="pulled authors whose timelines are cold",
        fallback="the feed without them",
        reason=Degraded.FEED_PARTIAL,
        waits_ms=200,
    ),
    Row(
        dependency=Dependency.POSTS,
        when="a cold feed, and nobody's timeline is in the cache",
        fallback="none: nothing is known",
        error="FEED_UNAVAILABLE",
        waits_ms=240,
    ),
    Row(
        dependency=Dependency.PRIVACY_LOG,
        ways=(Way.SLOW, Way.FAILING, Way.GONE),
        when="any page",
        fallback="none is needed: it only matters when a failover of the cache lost a delete or a block; it is read on",
        waits_ms=0,
    ),
)

_noted: ContextVar[set[Degraded] | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[set[Degraded]]:
    """What is noted within the block, also by tasks that it starts."""
    noted: set[Degraded] = set()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def note(reason: Degraded) -> None:
    """For adapters that went another way to the same values: flows need not know, callers are told."""
    noted = _noted.get()
    if noted is not None:
        noted.add(reason)

"""Candidates of a RANKED head: the sources, at once, each with its own share of the time, each failing alone.

The list and the recommended posts came with the viewer record, so they cost nothing more; a source beside them that is
late or silent is left out with its reason, and the page is made of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import MAX_CANDIDATES, Candidates, Degraded, Found, merged
from feed_svc.ports import AuthorPosts
from feed_svc.stages.candidates import newest_of_few
from foundation.errors import DomainError
from foundation.model.ids import MAX_ID
from foundation.rpc.deadlines import timeout
from foundation.telemetry.journal import Journal

PULLED_AUTHORS = 50
"""Pulled followees who get into a head; the tail and LATEST have all of them."""
PULLED_POSTS = 500
"""Posts of theirs among the candidates, shared among them."""
MOST_OF_ONE = 20
RECOMMENDED_POSTS = 30
"""Recommended posts among the candidates: three for each window of a full head."""


class Source(Protocol):
    """One kind of candidates beside the list."""

    @property
    def name(self) -> str:
        """Names its stage in journals and metrics."""
        ...

    @property
    def timeout_s(self) -> float:
        """Its share of the time."""
        ...

    @property
    def reason(self) -> Degraded:
        """What an answer without it says."""
        ...

    def wanted(self, home: OpenedHome) -> bool:
        """Whether this viewer has any."""
        ...

    async def find(self, home: OpenedHome) -> Found:
        """Its candidates. May raise a DomainError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledAuthors:
    """The newest posts of the pulled followees who posted last.

    Affinities are not known yet; once they are, they choose, and the newest post decides between equals.
    """

    author_posts: AuthorPosts
    timeout_s: float
    name: str = "pulled"
    reason: Degraded = Degraded.FEED_PARTIAL

    def wanted(self, home: OpenedHome) -> bool:
        return bool(home.viewer.pulled)

    async def find(self, home: OpenedHome) -> Found:
        viewer = home.viewer
        parts = await self.author_posts.below(
            [*viewer.pulled],
            before_id=MAX_ID,
            after_id=home.oldest_id,
            limit=min(MOST_OF_ONE, max(1, PULLED_POSTS // min(len(viewer.pulled), PULLED_AUTHORS))),
            hot=viewer.supers,
        )
        ids = newest_of_few(list(parts.values()), authors=PULLED_AUTHORS, limit=PULLED_POSTS, after_id=home.oldest_id)
        return Found(ids, whole=len(parts) == len(viewer.pulled))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherCandidates:
    """The list and what the sources find beside it, newest first."""

    sources: Sequence[Source]

    async def __call__(self, home: OpenedHome, journal: Journal) -> Candidates:
        wanted = [source for source in self.sources if source.wanted(home)]
        if len(wanted) == 1:
            found = [await self._found(wanted[0], home, journal)]  # without a task for it
        else:
            found = await asyncio.gather(*(self._found(source, home, journal) for source in wanted))
        ids = home.ids
        beside = set[int]().union(*(one.ids for one in found))
        if beside:
            beside.difference_update(ids)
            ids = merged(ids, beside)
        reasons = frozenset(source.reason for source, one in zip(wanted, found, strict=True) if not one.whole)
        return _with_recommended(home, ids, reasons, journal)

    async def _found(self, source: Source, home: OpenedHome, journal: Journal) -> Found:
        with journal.stage(source.name) as stage:
            try:
                async with asyncio.timeout(timeout(source.timeout_s)):
                    found = await source.find(home)
            except (TimeoutError, DomainError):
                found = Found((), whole=False)
            stage.count = len(found.ids)
            return found


def _with_recommended(
    home: OpenedHome, followed: Sequence[int], reasons: frozenset[Degraded], journal: Journal
) -> Candidates:
    """With the best recommended posts, which came with the list too; what is followed stays followed."""
    if home.recommended is None or not home.recommended.ids:
        return Candidates(followed[:MAX_CANDIDATES], reasons)
    with journal.stage("recommended") as stage:
        known = {*followed}
        young = (post_id for post_id in home.recommended.ids if post_id > home.oldest_id and post_id not in known)
        recommended = frozenset(islice(young, RECOMMENDED_POSTS))
        stage.count = len(recommended)
    return Candidates(followed[: MAX_CANDIDATES - len(recommended)], reasons, recommended)

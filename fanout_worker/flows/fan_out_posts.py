"""A post reaches its readers: always through its author's timeline, and by the route that the policy decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from fanout_worker.flows.deliver import Deliver
from fanout_worker.model import MAX_POSTS_PER_CHUNK, Chunk, Decision, NewPost, Route
from fanout_worker.ports import Chunks, Decisions, Followers, Levels
from fanout_worker.stages.policy import Policy
from foundation.errors import Unavailable
from foundation.model.clock import Clock
from foundation.model.tiers import Tier
from foundation.timeline.port import Gaps, Owners, Share, Timelines

DELIVERIES_AT_ONCE = 6_000
"""Deliveries gathered over posts before they are written, each node's share in one script call."""
CHUNKS_AT_ONCE = 32
"""Chunks gathered before they are appended: 256 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutPosts:
    """What is not pushed because a timeline is cold is found when that timeline is built."""

    policy: Policy
    followers: Followers
    author_posts: Timelines
    deliver: Deliver
    chunks: Chunks
    decisions: Decisions
    gaps: Gaps
    levels: Levels
    clock: Clock

    async def keep(self, posts: Sequence[NewPost]) -> Collection[int]:
        """Write *posts* into their authors' timelines: tried before the acknowledgement, certain after this.

        Ids of those that a node did not take. Raises Unavailable when no node took any.
        """
        shares = [Share(post.post_id, np.array([post.author_id], dtype=np.int64)) for post in posts]
        failed = (await self.author_posts.deliver(shares)).failed
        if posts and all(failed):
            raise Unavailable("CACHE_UNAVAILABLE", "no author's timeline was written", of=len(posts))
        return {post.post_id for post, gone in zip(posts, failed, strict=True) if gone}

    async def __call__(self, posts: Sequence[NewPost]) -> Collection[int]:
        """Route *posts*; again is harmless. Ids of those of which a node did not take its share: repeat them.

        When it returns, the rest is in the queue or in a gap: a crash before the caller's commit repeats chunks.
        Raises Unavailable when no node, or not the log, took anything.
        """
        level = self.levels.now()
        decided = {post.post_id: self.policy.decide(post, level) for post in posts}
        await self.gaps.record([post_id for post_id, decision in decided.items() if decision.route is Route.GAP])
        await self.decisions.record(decided)
        works: dict[int, _Work] = {}
        for post in posts:
            decision = decided[post.post_id]
            if decision.route in _CAUTION:
                works.setdefault(post.author_id, _Work(post.author_id)).add(post, decision)
        # Those who are delivered at once do not wait for chunks to be made.
        failed = await self._push({author: work for author, work in works.items() if not work.in_chunks})
        return failed | await self._push({author: work for author, work in works.items() if work.in_chunks})

    async def _push(self, works: dict[int, _Work]) -> set[int]:
        if not works:
            return set()
        failed: set[int] = set()
        shares: list[Share] = []
        chunks: list[Chunk] = []
        async for author_id, page in self.followers.pages(sorted(works)):
            work = works[author_id]
            work.seen += len(page)
            if work.in_chunks or work.seen > self.policy.inline_up_to:
                chunks += work.chunks_before(page, self.clock.now_ms())
            else:
                shares += [Share(post_id, page) for post_id in work.post_ids]
            if sum(len(share.owners) for share in shares) >= DELIVERIES_AT_ONCE:
                failed |= await self.deliver(shares)
                shares = []
            if len(chunks) >= CHUNKS_AT_ONCE:
                await self.chunks.append(chunks)
                chunks = []
        for work in works.values():
            chunks += work.last_chunks(self.clock.now_ms())
        await self.chunks.append(chunks)
        return failed | await self.deliver(shares)


@dataclass(slots=True)
class _Work:
    """The posts of one author on their way."""

    author_id: int
    post_ids: list[int] = field(default_factory=list)
    route: Route = Route.INLINE
    pulled: bool = True
    seen: int = 0
    """Followers so far."""
    number: int = 0
    """Chunks so far."""
    held: Owners | None = None
    """The page whose chunks are made when it is known whether they are the last."""

    def add(self, post: NewPost, decision: Decision) -> None:
        if post.post_id not in self.post_ids:
            self.post_ids.append(post.post_id)
        self.pulled = self.pulled and post.tier in (Tier.PULL, Tier.SUPER)
        # Events of one author may differ: the most cautious route takes them all.
        self.route = max(self.route, decision.route, key=_CAUTION.index)

    @property
    def in_chunks(self) -> bool:
        return self.route is not Route.INLINE

    def chunks_before(self, page: Owners, now_ms: int) -> list[Chunk]:
        """The chunks of the page before *page*, which is held until the next one comes."""
        made = self._chunks(now_ms, last=False)
        self.held = page
        return made

    def last_chunks(self, now_ms: int) -> list[Chunk]:
        """The chunks of the last page."""
        return self._chunks(now_ms, last=True)

    def _chunks(self, now_ms: int, *, last: bool) -> list[Chunk]:
        if self.held is None:
            return []
        followers, self.held = self.held, None
        self.number += 1
        ordered = sorted(self.post_ids)
        return [
            Chunk(
                author_id=self.author_id,
                post_ids=ordered[start : start + MAX_POSTS_PER_CHUNK],
                followers=followers,
                number=self.number,
                last=last,
                created_ms=now_ms,
                rate_limited=self.route is Route.RATE_LIMITED,
                pulled=self.pulled,
            )
            for start in range(0, len(ordered), MAX_POSTS_PER_CHUNK)
        ]


_CAUTION = (Route.INLINE, Route.CHUNKS, Route.RATE_LIMITED)
"""The routes that push, the most cautious one last."""

"""Acknowledged posts are looked for where their readers would look: a sample of them, some time after.

It proves nothing about one post and much about the whole: a loss that happens to one delivery in a thousand is seen
within minutes. Its memory is bounded, and what it cannot find out it counts instead of waiting for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fanout_worker.model import Finding, NewPost, Sample
from fanout_worker.ports import AuditReport, Graph, Posts, RecentPosts
from foundation.errors import DomainError, NotFound
from foundation.model.clock import Clock
from foundation.model.ids import created_ms
from foundation.timeline.port import Gaps, Timelines

READERS = 5
"""Followers of the author whose timelines are looked at."""
MAX_PENDING = 5_000
"""Samples that wait for a look; one more is not taken. Five a second for 10 minutes are 3,000."""
MAX_LOOKS = 100
"""Samples looked at before others have a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDeliveries:
    """Looks at sampled posts *windows_s* after they were made (ascending)."""

    graph: Graph
    posts: Posts
    recent: RecentPosts
    feeds: Timelines
    gaps: Gaps
    report: AuditReport
    clock: Clock
    every_nth: int
    """Of the posts that are noted."""
    per_s: float
    """Samples at most."""
    windows_s: Sequence[float]
    _memory: _Memory = field(default_factory=lambda: _Memory())

    async def note(self, posts: Sequence[NewPost]) -> None:
        """Take samples of *posts*. Never raises: what cannot be sampled is counted."""
        for post in posts:
            if not self._memory.chosen(self.every_nth) or self._ahead(post.post_id) is None:
                continue
            if not self._memory.may_take(self.clock.monotonic(), self.per_s):
                continue
            try:
                followers = await self.graph.some_followers(post.author_id)
            except DomainError:
                self.report.unknown()
                continue
            window = self._ahead(post.post_id)
            if window is not None and len(followers):
                # Those of another post are others: the place of the first goes round with the ids.
                first = post.post_id % len(followers)
                step = max(1, len(followers) // READERS)
                places = sorted({(first + turn * step) % len(followers) for turn in range(READERS)})
                sample = Sample(post.post_id, post.author_id, tuple(followers[places].tolist()), window)
                self._memory.push(self._due_ms(sample), sample)

    async def look(self) -> None:
        """Look at the samples that are due, MAX_LOOKS at most. Never raises."""
        for _ in range(MAX_LOOKS):
            sample = self._memory.pop(self.clock.now_ms())
            if sample is None:
                return
            try:
                found = await self._found(sample)
            except DomainError:
                self.report.unknown()
            else:
                missing = tuple(reader for reader, finding in found if finding is Finding.MISSING)
                self.report.looked(sample, len(found), missing, self.windows_s[sample.window])
                if not found:
                    continue
            if sample.window + 1 < len(self.windows_s):
                later = replace(sample, window=sample.window + 1)
                self._memory.push(self._due_ms(later), later)

    async def _found(self, sample: Sample) -> Sequence[tuple[int, Finding]]:
        """What was found for each reader; nothing for a post that is gone."""
        # Reading one alone would renew its life, and make an absentee present.
        lists = await self.feeds.read([*sample.readers, sample.author_id])
        suspects = [
            reader
            for reader in sample.readers
            if reader in lists and lists[reader].floor < sample.post_id and sample.post_id not in lists[reader].ids
        ]
        # The rest is asked only where something seems wrong: a look costs a few reads of lists.
        if not suspects:
            return [(reader, Finding.THERE) for reader in sample.readers]
        if not await self.posts.exists(sample.post_id):
            return []
        found = dict.fromkeys(sample.readers, Finding.THERE)
        if not any(gap.from_id <= sample.post_id <= gap.to_id for gap in await self.gaps.read()):
            for reader in suspects:
                found[reader] = await self._without_push(sample, reader)
        return list(found.items())

    async def _without_push(self, sample: Sample, reader: int) -> Finding:
        """Whether *reader*, whose timeline lacks the post, finds it in another way or is not to see it."""
        try:
            viewer = await self.graph.viewer(reader)
        except NotFound:
            return Finding.THERE
        if sample.author_id not in viewer.follows or sample.author_id in viewer.blocks | viewer.mutes:
            return Finding.THERE
        if sample.author_id in viewer.pulled:
            own = (await self.recent.of([sample.author_id]))[sample.author_id]
            if sample.post_id in own.ids or sample.post_id <= own.floor:
                return Finding.THERE
        # It may have come, or the timeline may have gone, since the look.
        again = (await self.feeds.read([reader, sample.author_id])).get(reader)
        there = again is None or again.floor >= sample.post_id or sample.post_id in again.ids
        return Finding.THERE if there else Finding.MISSING

    def _ahead(self, post_id: int) -> int | None:
        """The first window that is not over: the others would tell how late this process is, not what was lost."""
        age_s = (self.clock.now_ms() - created_ms(post_id)) / 1_000
        return next((place for place, window_s in enumerate(self.windows_s) if age_s < window_s), None)

    def _due_ms(self, sample: Sample) -> int:
        return created_ms(sample.post_id) + round(self.windows_s[sample.window] * 1_000)


@dataclass(slots=True)
class _Memory:
    """What waits, soonest first, and how many came by."""

    seen: int = 0
    free_at: float = 0.0
    pending: list[tuple[int, int, Sample]] = field(default_factory=list)

    def chosen(self, every_nth: int) -> bool:
        self.seen += 1
        return self.seen % every_nth == 0

    def may_take(self, now: float, per_s: float) -> bool:
        if now < self.free_at or len(self.pending) >= MAX_PENDING:
            return False
        self.free_at = now + 1 / per_s
        return True

    def push(self, due_ms: int, sample: Sample) -> None:
        heapq.heappush(self.pending, (due_ms, sample.post_id, sample))

    def pop(self, now_ms: int) -> Sample | None:
        if not self.pending or self.pending[0][0] > now_ms:
            return None
        return heapq.heappop(self.pending)[2]

"""The queue of deliveries is worked off: many chunks at once, authors in turn, what is limited under its limit."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from fanout_worker.flows.deliver import Deliver
from fanout_worker.model import Chunk, Level
from fanout_worker.ports import Chunks, Levels
from fanout_worker.stages.budget import Budget
from fanout_worker.stages.fair_order import fair_order
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger
from foundation.timeline.port import Gaps, Share

LIMITED_FOR_MS = 600_000
"""A rate-limited push is done within this time, or left to those who pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverChunks:
    """Delivers chunks; again is harmless."""

    deliver: Deliver
    budget: Budget
    queue: Chunks
    gaps: Gaps
    levels: Levels
    clock: Clock

    async def __call__(self, chunks: Sequence[Chunk]) -> Collection[int]:
        """Places of the chunks of which a node did not take its share: repeat them.

        Raises Unavailable when no node took anything.
        """
        if self.levels.now() >= Level.PULL_ALL:
            await self.gaps.record([post_id for chunk in chunks if not chunk.pulled for post_id in chunk.post_ids])
            return ()
        order = fair_order(chunks)
        at_once = [place for place in order if not chunks[place].rate_limited]
        failed_posts = await self.deliver(list(_shares(chunks[place] for place in at_once)))
        failed = {place for place in at_once if not failed_posts.isdisjoint(chunks[place].post_ids)}
        for place in order[len(at_once) :]:
            if await self._under_the_limit(chunks[place]):
                failed.add(place)
        return failed

    async def _under_the_limit(self, chunk: Chunk) -> bool:
        """Whether a node did not take its share."""
        if chunk.pulled and self.clock.now_ms() - chunk.created_ms > LIMITED_FOR_MS:
            logger.warning("push_left_to_readers", author_id=chunk.author_id, deliveries=chunk.deliveries)
            return False
        await asyncio.sleep(self.budget.spend(chunk.deliveries, share=await self.queue.share()))
        return bool(await self.deliver(list(_shares([chunk]))))


def _shares(chunks: Iterable[Chunk]) -> Iterable[Share]:
    return (Share(post_id, chunk.followers) for chunk in chunks for post_id in chunk.post_ids)

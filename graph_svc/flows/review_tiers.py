"""Authors whose follower counts changed take the step that their new count asks for."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from foundation.errors import Unavailable
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger
from graph_svc.model import Borders, Standing
from graph_svc.ports import ReadModels, Tiers
from graph_svc.stages.tier_steps import next_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewTiers:
    """Safe to repeat and to run in several processes at once: a step is taken from the standing that was read."""

    tiers: Tiers
    read_models: ReadModels
    clock: Clock
    borders: Borders

    async def __call__(self, author_ids: Collection[int]) -> None:
        """Raises Unavailable, DeadlineExceeded: repeat it."""
        for standing in (await self.tiers.standings(sorted(author_ids))).values():
            await self.move(standing, marked=False)

    async def move(self, standing: Standing, *, marked: bool) -> bool:
        """Take the steps of *standing*, whose count may have moved far; whether any was taken.

        A step that ends a crossing may ask for another one at once, and nobody would look at the author again.
        """
        if not await self._step(standing, marked=marked):
            return False
        while (fresh := (await self.tiers.standings([standing.author_id])).get(standing.author_id)) is not None:
            if not await self._step(fresh, marked=False):
                break
        return True

    async def _step(self, standing: Standing, *, marked: bool) -> bool:
        now_ms = self.clock.now_ms()
        step = next_step(standing, marked=marked, now_ms=now_ms, borders=self.borders)
        if step is None or not await self.tiers.settle(standing, step, now_ms=now_ms):
            return False
        logger.info(
            "author_tier_changed",
            author=standing.author_id,
            tier=step.tier.name,
            crossing=step.crossing.name if step.crossing else "",
            followers=standing.follower_count,
        )
        if step.tier is not standing.tier:
            with suppress(Unavailable):  # a writer with an older record is right too for an hour: see down_for_ms
                await self.read_models.tell_authors([standing.author_id])
        return True

"""Time as a caller: rounds over the authors who change tiers."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.telemetry.logging import logger
from graph_svc.flows.cross_tiers import CrossTiers


class TierRounds:
    """Calls the flow again and again, in `async with rounds.running()`."""

    def __init__(self, cross_tiers: CrossTiers, *, every_s: float) -> None:
        self._cross_tiers = cross_tiers
        self._every_s = every_s

    def running(self) -> AbstractAsyncContextManager[None]:
        """Owns the task; a round that is cut off is begun again by the next process."""
        return in_background(self._run(), name="tier rounds")

    async def _run(self) -> None:
        while True:
            try:
                await self._cross_tiers()
            except DomainError as failure:
                logger.warning("tier_round_failed", reason=failure.reason)
            except Exception:  # noqa: BLE001 - the task outlives every defect
                logger.exception("tier_round_failed")
            await asyncio.sleep(self._every_s)

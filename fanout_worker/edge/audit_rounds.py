"""The clock's way into the audit: what is due is looked for again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fanout_worker.flows.audit_deliveries import AuditDeliveries
from foundation.telemetry.logging import logger

EVERY_S = 0.5


class AuditRounds:
    """Looks in `async with rounds.running()`."""

    def __init__(self, audit: AuditDeliveries) -> None:
        self._audit = audit

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AuditRounds]:
        """Owns the task that looks."""
        task = asyncio.create_task(self._rounds(), name="audit")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self._audit.look()
            except Exception:  # noqa: BLE001 - the task outlives every defect
                logger.exception("audit_failed")

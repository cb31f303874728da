"""The clock's way into the audit: what is due is looked for again and again."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from fanout_worker.flows.audit_deliveries import AuditDeliveries
from foundation.background import in_background
from foundation.telemetry.logging import logger

EVERY_S = 0.5


class AuditRounds:
    """Looks in `async with rounds.running()`."""

    def __init__(self, audit: AuditDeliveries) -> None:
        self._audit = audit

    def running(self) -> AbstractAsyncContextManager[None]:
        """Owns the task that looks."""
        return in_background(self._rounds(), name="audit")

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self._audit.look()
            except Exception:  # noqa: BLE001 - the task outlives every defect
                logger.exception("audit_failed")

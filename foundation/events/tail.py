"""A topic read by this process alone, from some time back: what it must know however it was started or lost touch.

Unlike a Consumer it has nothing to finish: every process reads all records, those of the last *back_s* anew at each
start, and what it learns is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from feedmesh.events.v1.envelope_pb2 import Envelope

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.events.envelope import Undecodable, decode
from foundation.events.port import EventLog, Record
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import RECORDS_IGNORED

MAX_RECORDS = 1_000
WAIT_S = 1.0
AGAIN_S = 1.0


class Tail:
    """Hands every record of *topics* to *learn*, in `async with tail.running()`."""

    def __init__(
        self,
        log: EventLog,
        *,
        group: str,
        topics: Sequence[str],
        learn: Callable[[Sequence[tuple[Record, Envelope]]], None],
        clock: Clock,
        back_s: int,
    ) -> None:
        """*group* is this process's own: no two that run at the same time share one. *learn* never fails."""
        self._log = log
        self._group = group
        self._topics = topics
        self._learn = learn
        self._clock = clock
        self._back_s = back_s
        self._caught_up = asyncio.Event()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Owns the task that reads."""
        return in_background(self._run(), name=f"tail {self._group}")

    async def caught_up(self, *, timeout_s: float) -> bool:
        """Whether everything that was there at the start has been learned, waiting for it so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._caught_up.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except DomainError as failure:
                logger.warning("tail_waits", group=self._group, reason=failure.reason)
            except Exception:  # noqa: BLE001 - the task outlives every defect
                logger.exception("tail_failed", group=self._group)
            await asyncio.sleep(AGAIN_S)

    async def _read(self) -> None:
        await self._log.rewind(self._group, self._topics)
        # What is there now and not committed comes first: after so many records nothing of before is missing.
        left = await self._log.lag(self._group, self._topics)
        while True:
            if left <= 0:
                self._caught_up.set()
            records = await self._log.poll(self._group, self._topics, max_records=MAX_RECORDS, wait_s=WAIT_S)
            left -= len(records)
            self._learn(_decoded(records))
            # Only what need not be learned again is done for good: the rest comes again after a restart.
            old_ms = self._clock.now_ms() - self._back_s * 1_000
            await self._log.commit(self._group, [record for record in records if record.timestamp_ms < old_ms])


def _decoded(records: Sequence[Record]) -> list[tuple[Record, Envelope]]:
    found = []
    for record in records:
        try:
            found.append((record, decode(record.value)))
        except Undecodable as failure:
            RECORDS_IGNORED.labels(record.topic, failure.reason).inc()
            logger.error("record_ignored", topic=record.topic, offset=record.offset, reason=failure.reason)
    return found

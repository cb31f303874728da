"""The consumer loop: poll, decode, handle, commit. At least once; handlers are idempotent.

Undecodable records go to the dead letters at once. A dependency that is away is waited for, however long. What a
handler postpones, and a record whose row is not there yet (NotFound), goes to the retry tiers. A record that makes its
handler fail otherwise is tried three times by itself and then goes to the dead letters.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from feedmesh.events.v1.envelope_pb2 import Envelope

from foundation.background import in_background
from foundation.errors import DeadlineExceeded, DomainError, Exhausted, NotFound, Unavailable
from foundation.events.envelope import Undecodable, decode
from foundation.events.port import DEAD_LETTERS, EventLog, Record
from foundation.events.retries import ERROR_CLASS, Postponed, dead_letter, due_ms, retry_event
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger

Batch = Sequence[tuple[Record, Envelope]]
Handler = Callable[[Batch], Awaitable[Sequence[Postponed] | None]]
"""Takes effect for a batch, idempotently; bounds its own waits. Returns records to be tried again later, if any.

Unavailable, DeadlineExceeded, Exhausted: the whole batch waits. NotFound: its record is postponed.
"""
Burial = Callable[[Record, Envelope], Awaitable[None]]
"""Called before a record goes to the dead letters: makes good what will not be done. Raises like a handler."""

WAIT_S = 1.0
COMMIT_EVERY_S = 0.05
"""Under load what is done is committed twenty times a second, not after each small batch: a commit costs the log more
than the batch. After a crash so much is done again, with no effect."""
TRIES = 3
RECENT_S = 60
"""How much of what took effect is done again after repeat_recent."""
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
STOP_WITHIN_S = 3.0


class _Stopped(Exception):
    """The worker stops while a dependency is away: the batch stays uncommitted and comes again."""


class Consumer:
    """Feeds the records of some topics to one handler, in `async with consumer.running()` or a task of `run()`."""

    def __init__(
        self,
        log: EventLog,
        *,
        group: str,
        topics: Sequence[str],
        handle: Handler,
        clock: Clock,
        max_records: int = 500,
        before_burial: Burial | None = None,
    ) -> None:
        self._log = log
        self._before_burial = before_burial
        self._group = group
        self._topics = topics
        self._handle = handle
        self._clock = clock
        self._max_records = max_records
        self._stopping = asyncio.Event()
        self._polling = False
        self._recent: deque[tuple[float, int]] = deque()
        """Second in which records took effect, and when the oldest of them was appended; RECENT_S of it."""
        self._repeat_from_ms: int | None = None
        self._owed: dict[tuple[str, int], Record] = {}
        """The last record of each partition that is done and not committed."""
        self._commit_at = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Consumer]:
        """Owns a task of `run()`."""
        async with in_background(self.run(), name=f"consumer {self._group}"):
            yield self

    async def run(self) -> None:
        """Consume until cancelled; then the batch in hand may finish and commit, for at most 3 s."""
        self._stopping.clear()
        consuming = asyncio.create_task(self._consume(), name=f"consumer loop {self._group}")
        try:
            await asyncio.shield(consuming)
        finally:
            self._stopping.set()
            if self._polling:
                consuming.cancel()
            try:
                await asyncio.wait([consuming], timeout=STOP_WITHIN_S)
            finally:
                consuming.cancel()
                await asyncio.gather(consuming, return_exceptions=True)

    def repeat_recent(self) -> None:
        """Have all that took effect in the last RECENT_S done again, once the batch in hand is done: it may be lost.

        What waited in the log for longer before it took effect is among it. Of what another process handled before its
        partitions came here, as much as was appended in that time.
        """
        self._forget_old()
        oldest_ms = min(
            [self._clock.now_ms() - RECENT_S * 1_000, *(appended_ms for _, appended_ms in self._recent)],
        )
        self._repeat_from_ms = oldest_ms if self._repeat_from_ms is None else min(oldest_ms, self._repeat_from_ms)

    async def drained(self) -> bool:
        """Whether every record of its topics is committed."""
        return await self._log.lag(self._group, self._topics) == 0

    async def _consume(self) -> None:
        try:
            await self._consume_until_stopped()
        finally:
            with suppress(DomainError):  # what is not committed is done again, with no effect
                await self._commit()

    async def _consume_until_stopped(self) -> None:
        behind = True
        while not self._stopping.is_set():
            try:
                if behind:
                    await self._commit()
                    # What was polled and not finished, here or by another consumer of this process, comes again.
                    await self._log.rewind(self._group, self._topics)
                    behind = False
                await self._take_back()
                records = await self._poll()
                if records:
                    await self._process(records)
                if self._owed and self._clock.monotonic() >= self._commit_at:
                    await self._commit()
                continue
            except _Stopped:
                return
            except DomainError as failure:
                logger.warning("consumer_waits", group=self._group, reason=failure.reason)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._stopping.is_set() or (task is not None and task.cancelling()):
                    raise
                # A call of the handler was cancelled from elsewhere, such as by a channel that closed.
                logger.warning("consumer_waits", group=self._group, reason="CANCELLED")
            except Exception:  # noqa: BLE001 - the loop outlives every defect
                logger.exception("consumer_failed", group=self._group)
            behind = True
            await self._pause(BACKOFF_S[-1])

    async def _take_back(self) -> None:
        from_ms = self._repeat_from_ms
        if from_ms is None:
            return
        await self._commit()  # later it would undo this
        await self._log.rewind_to(self._group, self._topics, from_ms)
        if self._repeat_from_ms == from_ms:  # nobody asked for more meanwhile
            self._repeat_from_ms = None
        logger.warning("repeating", group=self._group, from_ms=from_ms)

    def _note_effect(self, records: Sequence[Record]) -> None:
        self._forget_old()
        oldest_ms = min(record.timestamp_ms for record in records)
        second = float(int(self._clock.monotonic()))
        if self._recent and self._recent[-1][0] == second:
            oldest_ms = min(oldest_ms, self._recent.pop()[1])
        self._recent.append((second, oldest_ms))
        if self._repeat_from_ms is not None:
            # This batch was in hand: part of it may have taken effect before the loss.
            self._repeat_from_ms = min(oldest_ms, self._repeat_from_ms)

    def _forget_old(self) -> None:
        while self._recent and self._recent[0][0] < self._clock.monotonic() - RECENT_S - 1:
            self._recent.popleft()

    async def _poll(self) -> Sequence[Record]:
        self._polling = True
        wait_s = min(WAIT_S, max(0.0, self._commit_at - self._clock.monotonic())) if self._owed else WAIT_S
        try:
            return await self._log.poll(self._group, self._topics, max_records=self._max_records, wait_s=wait_s)
        finally:
            self._polling = False

    async def _process(self, records: Sequence[Record]) -> None:
        """Handle *records* when due; each lot is committed after its effect: a crash repeats it and loses nothing."""
        waiting = sorted(records, key=due_ms) if any(map(due_ms, records)) else records
        while waiting:
            if not await self._until(due_ms(waiting[0])):
                return
            now_ms = self._clock.now_ms()
            ready = [record for record in waiting if due_ms(record) <= now_ms]
            waiting = waiting[len(ready) :]
            await self._process_now(ready)
            if waiting:
                await self._commit()  # the others may be due in minutes

    async def _until(self, ms: int) -> bool:
        """Whether it is *ms* now; else what took effect shall be repeated first, and what is in hand comes again."""
        while (left_ms := ms - self._clock.now_ms()) > 0:
            if self._repeat_from_ms is not None:
                return False
            await self._pause(min(left_ms / 1_000, WAIT_S))
            if self._stopping.is_set():
                raise _Stopped
        return True

    async def _process_now(self, records: Sequence[Record]) -> None:
        batch: list[tuple[Record, Envelope]] = []
        for record in records:
            try:
                batch.append((record, decode(record.value)))
            except Undecodable as failure:
                await self._bury(record, None, failure, tries=1)
        if batch:
            await self._handle_all(batch)
            self._note_effect(records)
        for record in records:
            place = (record.topic, record.partition)
            if place not in self._owed or self._owed[place].offset < record.offset:
                self._owed[place] = record

    async def _commit(self) -> None:
        if self._owed:
            # Of a commit that fails nobody knows what became of it: then reading goes on from what the log says.
            owed, self._owed = self._owed, {}
            await self._log.commit(self._group, list(owed.values()))
            self._commit_at = self._clock.monotonic() + COMMIT_EVERY_S

    async def _handle_all(self, batch: Batch) -> None:
        try:
            await self._patiently(batch)
        except _Stopped:
            raise
        except Exception as failure:  # noqa: BLE001 - found out below, record by record
            if len(batch) > 1 or not isinstance(failure, NotFound):
                logger.exception("batch_failed", group=self._group, records=len(batch))
            for one in batch:
                await self._handle_one(one)

    async def _handle_one(self, one: tuple[Record, Envelope]) -> None:
        for tried in range(1, TRIES + 1):
            try:
                await self._patiently([one])
            except _Stopped:
                raise
            except NotFound as missing:
                await self._postpone([Postponed(one[0], missing.reason)])
                return
            except Exception as failure:  # noqa: BLE001 - a defect in a handler must not stop the partition
                if tried == TRIES:
                    await self._bury(*one, failure, tries=tried)
            else:
                return

    async def _postpone(self, postponed: Sequence[Postponed]) -> None:
        events = [retry_event(one, self._group) for one in postponed]
        for one, event in zip(postponed, events, strict=True):
            logger.warning("postponed", group=self._group, topic=one.record.topic, to=event.topic, reason=one.reason)
            if event.topic == DEAD_LETTERS and self._before_burial is not None:
                await self._before_burial(one.record, decode(one.record.value))
        await self._log.append(events)

    async def _patiently(self, batch: Batch) -> None:
        attempt = 0
        while True:
            try:
                postponed = await self._handle(batch)
                if postponed:
                    await self._postpone(postponed)
            except (Unavailable, DeadlineExceeded, Exhausted) as failure:
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                logger.warning("dependency_away", group=self._group, reason=failure.reason, retry_in_s=pause_s)
                attempt += 1
                await self._pause(pause_s)
                if self._stopping.is_set():
                    raise _Stopped from failure
            else:
                return

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _bury(self, record: Record, envelope: Envelope | None, failure: Exception, *, tries: int) -> None:
        event = dead_letter(record, self._group, failure, tries=tries)
        reason = event.headers[ERROR_CLASS]
        logger.error("dead_letter", group=self._group, topic=record.topic, offset=record.offset, reason=reason)
        if envelope is not None and self._before_burial is not None:
            await self._before_burial(record, envelope)
        await self._log.append([event])

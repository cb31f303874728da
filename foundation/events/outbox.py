"""The row is the outbox: what was stored is published at least once, whatever dies in between.

A post or a follow is written together with its events, which lie in the sweep slot (10 s of one worker's ids) of its
id. The publisher appends them to the log right after the write. A slot is marked when everything in it was appended;
the sweeper appends the events of unmarked slots again. One marker per slot, not per row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from math import nan
from typing import Protocol

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.events.port import Event, EventLog
from foundation.events.unpublished import Unpublished, telling, unpublished
from foundation.model.clock import Clock
from foundation.model.ids import slot_at, slot_of, worker_of
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import OUTBOX_EVENTS, OUTBOX_SLOTS

MAX_QUEUED = 50_000
"""Rows whose events wait for the log; more are left to the sweeper."""
MAX_BATCH = 1_000
"""Rows published, and events swept, in one append."""
MAX_SLOTS_PER_SWEEP = 1_000
MAX_SLOTS_LEFT_BEHIND = 100_000
CLOSED_AFTER_SLOTS = 2
"""A slot more than this many slots back takes no more writes: ids are minted just before their row is written."""
STOP_WITHIN_S = 3.0
_EVERY_SLOT = 2**40


@dataclass(slots=True, frozen=True, order=True)
class SlotKey:
    """A sweep slot of one worker."""

    slot: int
    worker: int


def slot_key(snowflake: int) -> SlotKey:
    """The sweep slot that a row with this id lies in."""
    return SlotKey(slot_of(snowflake), worker_of(snowflake))


class Outbox(Protocol):
    """The events that lie beside the rows."""

    async def unmarked(self, *, before_slot: int, limit: int) -> Sequence[SlotKey]:
        """Slots below *before_slot* that hold events and have no mark, oldest first."""
        ...

    async def events(self, key: SlotKey) -> Sequence[Event]:
        """All events of one slot."""
        ...

    async def mark(self, keys: Sequence[SlotKey]) -> None:
        """The events that these slots had when `unmarked` last listed them are in the log.

        A slot that got another row since then stays unmarked; a row written into a marked slot takes the mark away.
        """
        ...


@dataclass(slots=True)
class _Slot:
    dirty: bool
    """It may hold events that this process does not know of, or could not append: the sweeper's."""
    writing: int = 0
    """Writes begun and not ended."""
    unpublished: set[int] = field(default_factory=set)
    """Ids whose write began and whose events are not in the log yet."""
    left: int = 0
    """Events that were taken on and that the log did not take."""
    doubts: int = 0
    """How often something happened after which it may hold events that this process does not know of."""


class Publisher:
    """Publishes the events of one worker of one service. Its tasks live in `async with publisher.running()`."""

    def __init__(
        self, log: EventLog, outbox: Outbox, clock: Clock, *, service: str, worker: int, sweep_every_s: float = 5.0
    ) -> None:
        """*worker* is what worker_of says of the ids that this process mints; nobody else mints such ids.

        *service* is under which name it is told how much waits.
        """
        self._log = log
        self._outbox = outbox
        self._clock = clock
        self._service = service
        self._worker = worker
        self._sweep_every_s = sweep_every_s
        self._queue: asyncio.Queue[tuple[int, Sequence[Event]]] = asyncio.Queue(MAX_QUEUED)
        self._taken_on = 0
        """Events that are in the queue or being appended."""
        self._first_slot = slot_at(clock.now_ms())
        self._slots: dict[SlotKey, _Slot] = {}
        self._took_over = False
        self._interruptions = 0
        self._one_sweep = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        """Owns the publishing and the sweeping task; at the end publishes what is queued, for at most 3 s."""
        _measure(self._service)
        async with in_background(self._publish_forever(), name="publisher"):
            try:
                with telling(self._service, self.unpublished):
                    async with in_background(self._sweep_forever(), name="sweeper"):
                        yield self
            finally:
                with suppress(TimeoutError):
                    await self.flush(timeout_s=STOP_WITHIN_S)

    def unpublished(self) -> Unpublished:
        """What it has yet to bring into the log. Costs a look at every slot of the last half minute."""
        states = self._slots.values()
        return Unpublished(
            events=self._taken_on + sum(slot.left for slot in states),
            slots=sum(slot.doubts > 0 for slot in states) if self._took_over else None,
        )

    @contextmanager
    def writing(self, *snowflakes: int) -> Iterator[None]:
        """Around the durable write of the rows with these ids; `publish` each of them afterwards.

        Until then their slots are not marked. After an exception the rows may be there or not, and only the sweeper
        may mark the slots, so keep refusals that wrote nothing outside.
        """
        slots = [self._slot(snowflake) for snowflake in snowflakes]
        for snowflake, slot in zip(snowflakes, slots, strict=True):
            slot.writing += 1
            slot.unpublished.add(snowflake)
        try:
            yield
        except BaseException:
            for slot in slots:
                slot.dirty = True
                slot.doubts += 1
            raise
        finally:
            for slot in slots:
                slot.writing -= 1

    def publish(self, snowflake: int, events: Sequence[Event]) -> None:
        """After the write: append *events*, if any, soon. Never blocks and never fails: the rest is swept."""
        if not events:
            self._settle(snowflake, left=0)
            return
        try:
            self._queue.put_nowait((snowflake, events))
            self._taken_on += len(events)
        except asyncio.QueueFull:
            self._settle(snowflake, left=len(events))

    async def flush(self, *, timeout_s: float = 10.0) -> None:
        """Wait until everything queued was appended or left to the sweeper. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._queue.join()

    def take_over_again(self) -> None:
        """Somebody else may have written under this worker number: the next sweep begins as if we had just started."""
        self._took_over = False
        self._interruptions += 1

    async def sweep(self) -> int:
        """Mark the closed slots that are done, publish and mark the others; how many slots were published again.

        The first time, and after take_over_again, also whatever another process left behind under this worker number,
        however recent.
        """
        async with self._one_sweep:
            left_behind = 0 if self._took_over else await self._take_over()
            return left_behind + await self._sweep_closed()

    async def _take_over(self) -> int:
        """Publish what an earlier process with this worker number wrote: it can't do so any more."""
        interruptions = self._interruptions
        listed = await self._outbox.unmarked(before_slot=_EVERY_SLOT, limit=MAX_SLOTS_LEFT_BEHIND)
        ours = [key for key in listed if key.worker == self._worker]
        for key in ours:
            self._doubt(key)
        # From here on a slot without a state has no rows of before, unless there were too many to list, or somebody
        # else may have written since.
        self._took_over = len(listed) < MAX_SLOTS_LEFT_BEHIND and interruptions == self._interruptions
        await self._publish_again(ours)
        # The slot that this process began in may take more rows; so may those where the clock stepped back.
        done = [key for key in ours if key.slot < self._first_slot and not self._slots[key].writing]
        await self._outbox.mark(done)
        self._forget(done)
        return len(ours)

    async def _sweep_closed(self) -> int:
        before_slot = slot_at(self._clock.now_ms()) - CLOSED_AFTER_SLOTS
        listed = await self._outbox.unmarked(before_slot=before_slot, limit=MAX_SLOTS_PER_SWEEP)
        settled = [key for key in listed if (slot := self._slots.get(key)) is None or not slot.writing]
        doubtful = [key for key in settled if not self._is_all_published(key)]
        for key in doubtful:
            if key.worker != self._worker and key not in self._slots:
                self._doubt(key)
        await self._publish_again(doubtful)
        await self._outbox.mark(settled)
        # Slots that are not listed hold nothing; but the list may have been cut.
        end = before_slot if len(listed) < MAX_SLOTS_PER_SWEEP else listed[-1].slot
        self._forget([key for key in self._slots if key.slot < end])
        return len(doubtful)

    def _is_all_published(self, key: SlotKey) -> bool:
        slot = self._slots.get(key)
        return slot is not None and not slot.dirty and not slot.unpublished

    async def _publish_again(self, keys: Sequence[SlotKey]) -> None:
        # What is left while they are read may come too late to be read with them.
        known = [(slot, slot.left, slot.doubts) for key in keys if (slot := self._slots.get(key)) is not None]
        batch: list[Event] = []
        for key in keys:
            batch.extend(await self._outbox.events(key))
            while len(batch) >= MAX_BATCH:
                await self._log.append(batch[:MAX_BATCH])
                del batch[:MAX_BATCH]
        await self._log.append(batch)
        for slot, left, doubts in known:
            slot.left -= left
            slot.doubts -= doubts

    def _doubt(self, key: SlotKey) -> None:
        slot = self._slots.setdefault(key, _Slot(dirty=True))
        slot.dirty = True
        slot.doubts += 1

    def _forget(self, keys: Sequence[SlotKey]) -> None:
        for key in keys:
            if not self._slots[key].writing:
                del self._slots[key]

    def _slot(self, snowflake: int) -> _Slot:
        key = slot_key(snowflake)
        slot = self._slots.get(key)
        if slot is None:
            known = self._took_over and key.worker == self._worker
            slot = self._slots[key] = _Slot(dirty=not known)
        return slot

    def _settle(self, snowflake: int, *, left: int) -> None:
        slot = self._slots.get(slot_key(snowflake))
        if slot is not None:
            slot.unpublished.discard(snowflake)
            slot.dirty |= left > 0
            slot.left += left

    async def _publish_forever(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            appended = False
            all_events = [event for _, events in batch for event in events]
            try:
                await self._log.append(all_events)
                appended = True
            except DomainError as failure:
                logger.warning("events_left_to_the_sweeper", reason=failure.reason, rows=len(batch))
            except Exception:  # noqa: BLE001 - the task outlives every defect; the rows are safe
                logger.exception("events_left_to_the_sweeper", rows=len(batch))
            finally:
                self._taken_on -= len(all_events)
                for snowflake, events in batch:
                    self._settle(snowflake, left=0 if appended else len(events))
                    self._queue.task_done()

    async def _sweep_forever(self) -> None:
        while True:
            try:
                repaired = await self.sweep()
                if repaired:
                    logger.info("slots_published_again", slots=repaired, worker=self._worker)
            except DomainError as failure:
                logger.warning("sweep_failed", reason=failure.reason)
            except Exception:  # noqa: BLE001 - the task outlives every defect
                logger.exception("sweep_failed")
            await asyncio.sleep(self._sweep_every_s)


def _measure(service: str) -> None:
    """The gauges of *service* ask its outboxes when somebody reads them; NaN where nothing is known."""

    def events() -> float:
        told = unpublished().get(service)
        return nan if told is None else told.events

    def slots() -> float:
        told = unpublished().get(service)
        return nan if told is None or told.slots is None else told.slots

    OUTBOX_EVENTS.labels(service).set_function(events)
    OUTBOX_SLOTS.labels(service).set_function(slots)

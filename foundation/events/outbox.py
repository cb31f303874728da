"""The row is the outbox: what was stored is published at least once, whatever dies in between.

A post or a follow is written together with its events, which lie in the sweep slot (10 s of one worker's ids) of its
id. The publisher appends them to the log right after the write. A slot is marked when everything in it was appended; the
sweeper appends the events of unmarked slots again. One marker per slot, not per row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from foundation.errors import DomainError
from foundation.events.port import Event, EventLog
from foundation.model.clock import Clock
from foundation.model.ids import slot_at, slot_of, worker_of
from foundation.telemetry.logging import logger

MAX_QUEUED = 50_000
"""Events waiting for the log; more are left to the sweeper."""
MAX_BATCH = 1_000
MAX_SLOTS_PER_SWEEP = 1_000
CLOSED_AFTER_SLOTS = 2
"""A slot this many slots back takes no more writes."""


@dataclass(slots=True, frozen=True, order=True)
class SlotKey:
    """A sweep slot of one worker."""

    slot: int
    worker: int


class Outbox(Protocol):
    """The events that lie beside the rows."""

    async def unmarked(self, *, before_slot: int, limit: int) -> Sequence[SlotKey]:
        """Slots below *before_slot* that hold events and have no mark, oldest first."""
        ...

    async def events(self, key: SlotKey) -> Sequence[Event]:
        """All events of one slot."""
        ...

    async def mark(self, keys: Sequence[SlotKey]) -> None:
        """All events of these slots are in the log."""
        ...


@dataclass(slots=True)
class _Slot:
    in_flight: int = 0
    """Writes begun and not yet published."""
    dirty: bool = False
    """A write's outcome is unknown, or its events were not appended: the sweeper's."""


class Publisher:
    """Publishes the events of one worker of one service. Use `running()`."""

    def __init__(self, log: EventLog, outbox: Outbox, clock: Clock, *, worker: int, sweep_every_s: float = 5.0) -> None:
        self._log = log
        self._outbox = outbox
        self._clock = clock
        self._worker = worker
        self._sweep_every_s = sweep_every_s
        self._queue: asyncio.Queue[tuple[int, Sequence[Event]]] = asyncio.Queue(MAX_QUEUED)
        self._first_slot = slot_at(clock.now_ms())
        # An earlier life of this worker may have left rows in the slot that this life begins in.
        self._slots: dict[int, _Slot] = {self._first_slot: _Slot(dirty=True)}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        """Owns the publishing and the sweeping task; at the end publishes what is queued, for at most 3 s."""
        publishing = asyncio.create_task(self._publish_forever(), name="publisher")
        sweeping = asyncio.create_task(self._sweep_forever(), name="sweeper")
        try:
            yield self
        finally:
            sweeping.cancel()
            with suppress(TimeoutError):
                await self.flush(timeout_s=3.0)
            publishing.cancel()
            await asyncio.gather(publishing, sweeping, return_exceptions=True)

    @contextmanager
    def writing(self, snowflake: int) -> Iterator[None]:
        """Around the durable write of a row with this id: until `publish` its slot can't be marked."""
        slot = self._slots.setdefault(slot_of(snowflake), _Slot())
        slot.in_flight += 1
        try:
            yield
        except BaseException:
            # The write may have happened all the same.
            slot.dirty = True
            slot.in_flight -= 1
            raise

    def publish(self, snowflake: int, events: Sequence[Event]) -> None:
        """After the write: append *events* soon. Never blocks and never fails: what can't be queued is swept."""
        try:
            self._queue.put_nowait((snowflake, events))
        except asyncio.QueueFull:
            self._settle(snowflake, appended=False)

    async def flush(self, *, timeout_s: float = 10.0) -> None:
        """Wait until everything queued was appended. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._queue.join()

    def _settle(self, snowflake: int, *, appended: bool) -> None:
        slot = self._slots.get(slot_of(snowflake))
        if slot is not None:
            slot.in_flight -= 1
            slot.dirty |= not appended

    async def _publish_forever(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            appended = False
            try:
                await self._log.append([event for _, events in batch for event in events])
                appended = True
            except DomainError as failure:
                logger.warning("events_left_to_the_sweeper", reason=failure.reason, posts=len(batch))
            finally:
                for snowflake, _ in batch:
                    self._settle(snowflake, appended=appended)
                    self._queue.task_done()

    async def _sweep_forever(self) -> None:
        # What an earlier life of this worker left behind comes at once: nobody else writes under this worker number.
        await self._attempt(self._first_slot + 1, only_own=True)
        while True:
            await asyncio.sleep(self._sweep_every_s)
            await self._attempt(slot_at(self._clock.now_ms()) - CLOSED_AFTER_SLOTS, only_own=False)

    async def _attempt(self, before_slot: int, *, only_own: bool) -> None:
        try:
            await self.sweep(before_slot=before_slot, only_own=only_own)
        except DomainError as failure:
            logger.warning("sweep_failed", reason=failure.reason)

    async def sweep(self, *, before_slot: int, only_own: bool = False) -> int:
        """Mark the slots below *before_slot* that are done, publish and mark the rest; how many were published again."""
        keys = await self._outbox.unmarked(before_slot=before_slot, limit=MAX_SLOTS_PER_SWEEP)
        repaired = 0
        done: list[SlotKey] = []
        for key in keys:
            own = key.worker == self._worker
            if only_own and not own:
                continue
            slot = self._slots.get(key.slot) if own else None
            if slot is not None and slot.in_flight:
                continue
            if slot is None or slot.dirty:
                await self._log.append(await self._outbox.events(key))
                repaired += 1
            if not only_own or key.slot < self._first_slot:
                done.append(key)
        if done:
            await self._outbox.mark(done)
        if not only_own:
            settled = [slot for slot, state in self._slots.items() if slot < before_slot and not state.in_flight]
            for slot in settled:
                del self._slots[slot]
        return repaired


def slot_key(snowflake: int) -> SlotKey:
    """The sweep slot that a row with this id lies in."""
    return SlotKey(slot_of(snowflake), worker_of(snowflake))

"""The outbox over CQL: rows lie in the partition (slot, worker) of their ids, so a slot is swept by one read.

A marker per worker says up to which slot everything is in the log. A row that is written into a slot so old that it may
lie below the marker first notes its slot in `late_slots`: that takes the mark away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.cql.session import Call, Cql, Row, Statement
from foundation.events.outbox import CLOSED_AFTER_SLOTS, SlotKey, slot_key
from foundation.events.port import Event
from foundation.model.clock import Clock
from foundation.model.ids import slot_at

_SCOPE = 0
"""One small partition holds the markers of all workers."""
LATE_AFTER_SLOTS = CLOSED_AFTER_SLOTS - 1
"""From here on a slot may be swept and marked before a write into it has ended."""

_MARKERS = Statement("SELECT worker, slot FROM sweep_markers WHERE scope = ?")
_MOVE_MARKER = Statement("INSERT INTO sweep_markers (scope, worker, slot) VALUES (?, ?, ?)")
_LATE = Statement("SELECT slot, worker FROM late_slots WHERE scope = ?")
_ADD_LATE = Statement("INSERT INTO late_slots (scope, slot, worker) VALUES (?, ?, ?) USING TIMESTAMP ?")
_DROP_LATE = Statement("DELETE FROM late_slots USING TIMESTAMP ? WHERE scope = ? AND slot = ? AND worker = ?")


@dataclass(frozen=True, eq=False)
class Source:
    """A table whose rows hold events."""

    select: Statement
    """Rows of one (slot, worker): event_topics, event_key, event_value first; whatever `finish` needs after them."""
    finish: Callable[[Row], Sequence[Call]] = lambda _: ()
    """Idempotent writes that complete a row whose writer may have died half-way."""


class CqlOutbox:
    """foundation.events.outbox.Outbox over tables with the primary key ((slot, worker), id)."""

    def __init__(self, cql: Cql, sources: Sequence[Source], clock: Clock, *, worker: int) -> None:
        self._cql = cql
        self._sources = sources
        self._clock = clock
        self._worker = worker
        self._first_slot = slot_at(clock.now_ms())
        self._markers: dict[int, int] = {}
        self._listed_late: set[SlotKey] = set()
        self._listed_us = 0
        self._registered = False

    async def register(self) -> None:
        """Begin the marker of this worker, where there is none. Before its first write."""
        if not self._registered:
            workers = [row[0] for row in await self._cql.execute(_MARKERS, (_SCOPE,))]
            if self._worker not in workers:
                await self._cql.execute(_MOVE_MARKER, (_SCOPE, self._worker, self._first_slot - 1))
            self._registered = True

    async def before_writing(self, snowflakes: Sequence[int]) -> None:
        """Before rows with these ids are written: ids that were minted long ago may lie in marked slots."""
        await self.register()
        now_ms = self._clock.now_ms()
        late = slot_at(now_ms) - LATE_AFTER_SLOTS
        keys = {slot_key(snowflake) for snowflake in snowflakes}
        old = [key for key in keys if key.slot <= late]
        if old:
            await self._cql.execute_all(
                [(_ADD_LATE, (_SCOPE, key.slot, key.worker, now_ms * 1_000 + 1)) for key in old]
            )

    async def unmarked(self, *, before_slot: int, limit: int) -> Sequence[SlotKey]:
        self._listed_us = self._clock.now_ms() * 1_000
        markers, late = await self._cql.execute_all([(_MARKERS, (_SCOPE,)), (_LATE, (_SCOPE,))])
        self._markers = {worker: slot for worker, slot in markers}  # noqa: C416 - rows are tuples of any length
        self._listed_late = {SlotKey(slot, worker) for slot, worker in late if slot < before_slot}
        end = min(before_slot, slot_at(self._clock.now_ms()) + 1)
        keys = set(self._listed_late)
        for worker, marked in self._markers.items():
            keys.update(SlotKey(slot, worker) for slot in range(marked + 1, min(end, marked + 1 + limit)))
        return sorted(keys)[:limit]

    async def events(self, key: SlotKey) -> Sequence[Event]:
        found: list[Event] = []
        for source in self._sources:
            rows = await self._cql.execute(source.select, (key.slot, key.worker))
            # A row is complete before anybody hears of it.
            unfinished = [call for row in rows for call in source.finish(row)]
            if unfinished:
                await self._cql.execute_all(unfinished)
            for row in rows:
                topics, event_key, value = row[:3]
                if value is not None:
                    found += [Event(topic, event_key, value) for topic in (topics or "").split(",") if topic]
        return found

    async def mark(self, keys: Sequence[SlotKey]) -> None:
        marked = set(keys)
        # A row that came after the listing noted its slot later than that: its note stays.
        calls: list[Call] = [
            (_DROP_LATE, (self._listed_us, _SCOPE, key.slot, key.worker)) for key in self._listed_late & marked
        ]
        for worker, at in self._markers.items():
            end = at
            while SlotKey(end + 1, worker) in marked:
                end += 1
            if end > at:
                self._markers[worker] = end
                calls.append((_MOVE_MARKER, (_SCOPE, worker, end)))
        if calls:
            await self._cql.execute_all(calls)


def event_row(topics: Sequence[str], key: int, value: bytes) -> tuple[Any, ...]:
    """Values of event_topics, event_key and event_value."""
    return ",".join(topics), key, value

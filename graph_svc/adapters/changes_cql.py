"""Changes of the graph over Cassandra or ScyllaDB: noted whole with their event, then applied.

Cells carry the time of the change that decided them, so what is applied late or twice undoes nothing: the sweeper
applies whatever a crash left half-done before it publishes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from foundation.cql.session import Call, Cql, Row, Statement
from foundation.cql.write_time import write_time
from foundation.events.cql_outbox import CqlOutbox, Source, event_row
from foundation.events.outbox import slot_key
from foundation.events.port import GRAPH_BY_FOLLOWEE, PRIVACY, Event
from foundation.visibility import EdgeState
from graph_svc.adapters.graph_events import block_event, follow_event
from graph_svc.adapters.marks_cql import SET_MARK
from graph_svc.adapters.versions_cql import Stamp, Versions
from graph_svc.model import AppliedFollow

ROWS_PER_BATCH = 100
USERS_AT_ONCE = 64

_NOTE = Statement(
    "INSERT INTO graph_changes (slot, worker, change_id, event_topics, event_key, event_value, kind, one_id, other_id,"
    " write_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    timeout_s=5.0,
)
_NOTES = Statement(
    "SELECT event_topics, event_key, event_value, kind, one_id, other_id, change_id, write_us"
    " FROM graph_changes WHERE slot = ? AND worker = ?"
)
_FOLLOW = Statement(
    "UPDATE following USING TIMESTAMP ? SET state = ?, changed_id = ? WHERE follower_id = ? AND followee_id = ?",
    timeout_s=5.0,
)
# Cells, not the row: `bucket` is the consumer's. A row without cells is gone, since no INSERT ever marked it.
_END = Statement(
    "DELETE state, changed_id, pulled FROM following USING TIMESTAMP ? WHERE follower_id = ? AND followee_id = ?"
)
_STAMP = Statement("UPDATE following USING TIMESTAMP ? SET stamps[?] = ? WHERE follower_id = ?")
_BLOCKING = Statement("UPDATE blocks USING TIMESTAMP ? SET blocking_id = ? WHERE user_id = ? AND other_id = ?")
_BLOCKED_BY = Statement("UPDATE blocks USING TIMESTAMP ? SET blocked_by_id = ? WHERE user_id = ? AND other_id = ?")
_NOT_BLOCKING = Statement("DELETE blocking_id FROM blocks USING TIMESTAMP ? WHERE user_id = ? AND other_id = ?")
_NOT_BLOCKED_BY = Statement("DELETE blocked_by_id FROM blocks USING TIMESTAMP ? WHERE user_id = ? AND other_id = ?")


class Kind(IntEnum):
    """What a change writes. Stored."""

    FOLLOW = 1
    UNFOLLOW = 2
    BLOCK = 3
    """It also ends the follows of before, both ways."""
    UNBLOCK = 4


@dataclass(slots=True, frozen=True)
class Change:
    """One change, complete."""

    change_id: int
    kind: Kind
    one_id: int
    """The follower or the blocker."""
    other_id: int
    write_us: int
    """The time of its cells. At equal times an end stands."""
    mark: int = 0
    """Of a follow; not noted, since the consumer marks what the sweeper completes."""

    @classmethod
    def of(cls, kind: Kind, change_id: int, one_id: int, other_id: int, *, ends_id: int = 0, mark: int = 0) -> Change:
        """Written at the time of its id; what ends an earlier change *ends_id* not before that."""
        return cls(change_id, kind, one_id, other_id, write_time(max(change_id, ends_id)), mark)

    @property
    def event(self) -> Event:
        """What the log is told."""
        if self.kind in (Kind.BLOCK, Kind.UNBLOCK):
            blocked = self.kind is Kind.BLOCK
            value = block_event(self.change_id, blocker_id=self.one_id, blocked_id=self.other_id, blocked=blocked)
            return Event(PRIVACY, self.one_id, value)
        following = self.kind is Kind.FOLLOW
        value = follow_event(AppliedFollow(self.change_id, self.one_id, self.other_id, following))
        return Event(GRAPH_BY_FOLLOWEE, self.other_id, value)

    def writes(self) -> dict[int, list[Call]]:
        """What it writes, by the user in whose partitions it lies. The versions of these users grow."""
        one, other, at = self.one_id, self.other_id, self.write_us
        match self.kind:
            case Kind.FOLLOW:
                marks: list[Call] = [(SET_MARK, (at, self.mark, one, other))] if self.mark else []
                return {one: [(_FOLLOW, (at, int(EdgeState.FOLLOWING), self.change_id, one, other)), *marks]}
            case Kind.UNFOLLOW:
                return {one: [(_END, (at, one, other))]}
            case Kind.BLOCK:
                return {
                    one: [(_BLOCKING, (at, self.change_id, one, other)), (_END, (at, one, other))],
                    other: [(_BLOCKED_BY, (at, self.change_id, other, one)), (_END, (at, other, one))],
                }
            case Kind.UNBLOCK:
                return {one: [(_NOT_BLOCKING, (at, one, other))], other: [(_NOT_BLOCKED_BY, (at, other, one))]}


def graph_sources(versions: Versions) -> Sequence[Source]:
    """What is swept, and how a change is completed whose maker died before it was applied."""

    def finish(row: Row) -> Sequence[Call]:
        kind, one_id, other_id, change_id, write_us = row[3:8]
        writes = Change(change_id, Kind(kind), one_id, other_id, write_us).writes()
        stamps = [stamped(user_id, versions.swept()) for user_id in writes]
        return [*(call for calls in writes.values() for call in calls), *stamps]

    return [Source(_NOTES, finish)]


class Changes:
    """Writes changes."""

    def __init__(self, cql: Cql, outbox: CqlOutbox, versions: Versions) -> None:
        self._cql = cql
        self._outbox = outbox
        self._versions = versions

    async def make(self, changes: Sequence[Change]) -> None:
        """Durably; the caller publishes their events."""
        if changes:
            await self.note(changes)
            await self.apply(changes)

    async def note(self, changes: Sequence[Change]) -> None:
        """The first half: from here on the sweeper completes them."""
        await self._outbox.before_writing([change.change_id for change in changes])
        slots: dict[tuple[int, int], list[Call]] = defaultdict(list)
        for change in changes:
            key = slot_key(change.change_id)
            event = change.event
            row = (
                key.slot, key.worker, change.change_id, *event_row([event.topic], event.key, event.value),
                int(change.kind), change.one_id, change.other_id, change.write_us, write_time(change.change_id),
            )  # fmt: skip
            slots[key.slot, key.worker].append((_NOTE, row))
        await self._cql.batch_all([part for calls in slots.values() for part in parts_of(calls)])

    async def apply(self, changes: Sequence[Change]) -> None:
        """The second half; late or again it undoes nothing that was decided since."""
        by_user: dict[int, list[Call]] = defaultdict(list)
        for change in changes:
            for user_id, calls in change.writes().items():
                by_user[user_id] += calls
        one_partition = all(change.kind in (Kind.FOLLOW, Kind.UNFOLLOW) for change in changes)
        gate = asyncio.Semaphore(USERS_AT_ONCE)

        async def write(user_id: int, calls: Sequence[Call]) -> None:
            async with gate, self._versions.turn(user_id) as stamp:
                if one_partition:  # the version grows in the batch that holds the last row
                    for part in parts_of([*calls, stamped(user_id, stamp)]):
                        await self._cql.batch(part)
                else:
                    await self._cql.execute_all(calls)
                    await self._cql.execute(*stamped(user_id, stamp))

        for ended in await asyncio.gather(*(write(*item) for item in by_user.items()), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def raise_versions(self, *user_ids: int) -> None:
        """After a write, maybe of a try that died: records that were read before it are overtaken."""
        for user_id in user_ids:
            async with self._versions.turn(user_id) as stamp:
                await self._cql.execute(*stamped(user_id, stamp))


def parts_of(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """Of a size for a batch."""
    return [calls[start : start + ROWS_PER_BATCH] for start in range(0, len(calls), ROWS_PER_BATCH)]


def stamped(user_id: int, stamp: Stamp) -> Call:
    """What raises the version of a viewer."""
    return _STAMP, (stamp.write_us, stamp.cell, stamp.value, user_id)

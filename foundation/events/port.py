"""The contract of the event log; tests/contract/test_event_log.py runs it over every adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foundation.model.clock import DAY_MS

POSTS_CREATED = "posts.created"
POSTS_UPDATED = "posts.updated"
POSTS_DELETED = "posts.deleted"
GRAPH_BY_FOLLOWEE = "graph.by_followee"
GRAPH_BY_FOLLOWER = "graph.by_follower"
FEED_FANOUT = "feed.fanout"
PRIVACY = "privacy"
RETRY_5S = "retry.5s"
RETRY_1M = "retry.1m"
RETRY_10M = "retry.10m"
DEAD_LETTERS = "dlq"
TOPICS = (
    POSTS_CREATED, POSTS_UPDATED, POSTS_DELETED, GRAPH_BY_FOLLOWEE, GRAPH_BY_FOLLOWER, FEED_FANOUT, PRIVACY,
    RETRY_5S, RETRY_1M, RETRY_10M, DEAD_LETTERS,
)  # fmt: skip
RETENTION_MS: Mapping[str, int] = {
    # As far back as a feed goes: a delivery that is later than that has nobody to reach. Retries deliver too.
    **dict.fromkeys(TOPICS, 7 * DAY_MS),
    # Every process reads all of it and holds the truth elsewhere.
    PRIVACY: DAY_MS,
    # Read by people, seldom: so that a defect can be mended before its records are gone.
    DEAD_LETTERS: 14 * DAY_MS,
}
"""Topic to how long its records are kept, whether or not anybody has read them."""


@dataclass(slots=True, frozen=True)
class Event:
    """One record to append."""

    topic: str
    key: int
    """Records of one key stay in order."""
    value: bytes
    """An encoded feedmesh.events.v1.Envelope."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Record:
    """One record as read."""

    topic: str
    partition: int
    offset: int
    key: int
    value: bytes
    timestamp_ms: int
    """When it was appended."""
    headers: Mapping[str, str] = field(default_factory=dict)


class EventLog(Protocol):
    """Appends and reads records, at least once."""

    async def append(self, events: Sequence[Event]) -> None:
        """Durable when it returns; in order per key. Raises Unavailable when the log does not take them."""
        ...

    async def poll(self, group: str, topics: Sequence[str], *, max_records: int, wait_s: float) -> Sequence[Record]:
        """The next records of *topics* after those this process polled before; after a restart, after those committed.

        Waits at most *wait_s* when there are none. A new group starts at the oldest record.
        """
        ...

    async def commit(self, group: str, records: Sequence[Record]) -> None:
        """Durably mark *records* and all before them in their partitions as done for *group*."""
        ...

    async def rewind(self, group: str, topics: Sequence[str]) -> None:
        """Poll again from what is committed."""
        ...

    async def rewind_to(self, group: str, topics: Sequence[str], timestamp_ms: int) -> None:
        """Durably take back what *group* committed of records appended at or after *timestamp_ms*, and poll from there.

        Never forward: where less is committed, that is where polling goes on. Of *topics*, what other processes read of
        them is left to those. Not while a batch is in hand: its commit would undo this. Raises Unavailable when the log
        does not answer; then do it again.
        """
        ...

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        """Records of *topics* not yet committed by *group*."""
        ...

    async def share(self, group: str, topics: Sequence[str]) -> float:
        """The part of the partitions of *topics*, 0 to 1, that this process reads for *group*."""
        ...

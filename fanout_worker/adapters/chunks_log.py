"""The queue of deliveries over the event log, topic feed.fanout."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk

from fanout_worker.model import Chunk
from foundation.events.envelope import encode
from foundation.events.port import FEED_FANOUT, Event, EventLog


class LogChunks:
    """fanout_worker.ports.Chunks; *group* is the one that works the queue off."""

    def __init__(self, log: EventLog, group: str) -> None:
        self._log = log
        self._group = group

    async def append(self, chunks: Sequence[Chunk]) -> None:
        await self._log.append([_event(chunk) for chunk in chunks])

    async def share(self) -> float:
        return await self._log.share(self._group, [FEED_FANOUT])


def _event(chunk: Chunk) -> Event:
    record = FanoutChunk(
        post_ids=chunk.post_ids,
        author_id=chunk.author_id,
        follower_ids=chunk.followers.astype("<i8", copy=False).tobytes(),
        number=chunk.number,
        last=chunk.last,
        deliveries=chunk.deliveries,
        created_ms=chunk.created_ms,
        rate_limited=chunk.rate_limited,
        pulled=chunk.pulled,
    )
    newest = chunk.post_ids[-1]
    # The key spreads an author's chunks over the partitions: no worker gets all of them. Their event has no id of its
    # own: a chunk that is made again is the same event.
    return Event(FEED_FANOUT, chunk.author_id + chunk.number, encode(record, event_id=newest, version=newest))

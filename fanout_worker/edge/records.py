"""Records of the log to plain values to flows. Every handler may see a record again: the flows are idempotent.

A record that decodes but makes no sense (an id that is not positive, followers that are no whole ids) is left out,
counted and logged: nobody could ever handle it, and nothing can be made good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING
from feedmesh.events.v1.post_events_pb2 import PostCreated

from fanout_worker.flows.audit_deliveries import AuditDeliveries
from fanout_worker.flows.backfill_follows import BackfillFollows
from fanout_worker.flows.deliver_chunks import DeliverChunks
from fanout_worker.flows.fan_out_posts import FanOutPosts
from fanout_worker.flows.unlink_feeds import UnlinkFeeds
from fanout_worker.model import Chunk, NewFollow, NewPost
from fanout_worker.stages.policy import is_large
from foundation.events.port import Record
from foundation.events.retries import Postponed
from foundation.model.tiers import Tier
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import RECORDS_IGNORED

NODE_AWAY = "CACHE_NODE_UNAVAILABLE"
_TIERS = {tier.value: tier for tier in Tier}

Batch = Sequence[tuple[Record, Envelope]]


class FanOutRecords:
    """Handles posts.created: keeps every post with its author, and fans out those of authors who are not large."""

    def __init__(self, fan_out: FanOutPosts) -> None:
        self._fan_out = fan_out

    async def __call__(self, batch: Batch) -> Sequence[Postponed]:
        posts = _posts(batch)
        failed = set(await self._fan_out.keep([post for _, post in posts]))
        # A node that is away is not the post's fault: its share waits for as long as that takes.
        failed |= set(await self._fan_out([post for _, post in posts if not is_large(post)]))
        return [Postponed(record, NODE_AWAY, counted=False) for record, post in posts if post.post_id in failed]


class LargeFanOutRecords:
    """Handles posts.created: fans out the posts of large authors, whom no other post waits for."""

    def __init__(self, fan_out: FanOutPosts) -> None:
        self._fan_out = fan_out

    async def __call__(self, batch: Batch) -> Sequence[Postponed]:
        posts = [(record, post) for record, post in _posts(batch) if is_large(post)]
        failed = await self._fan_out([post for _, post in posts])
        return [Postponed(record, NODE_AWAY, counted=False) for record, post in posts if post.post_id in failed]


class ChunkRecords:
    """Handles feed.fanout."""

    def __init__(self, deliver: DeliverChunks) -> None:
        self._deliver = deliver

    async def __call__(self, batch: Batch) -> Sequence[Postponed]:
        found = [
            (record, chunk)
            for record, envelope in batch
            if envelope.HasField("fanout_chunk") and (chunk := _chunk(record, envelope.fanout_chunk)) is not None
        ]
        failed = await self._deliver([chunk for _, chunk in found])
        return [Postponed(found[place][0], NODE_AWAY, counted=False) for place in sorted(failed)]


class UndeliverableRecords:
    """Before an event goes to the dead letters: what was not pushed must be found by a rebuild (rule 2)."""

    def __init__(self, unlink_feeds: UnlinkFeeds) -> None:
        self._unlink_feeds = unlink_feeds

    async def __call__(self, record: Record, envelope: Envelope) -> None:
        if envelope.HasField("post_created"):
            await self._unlink_feeds.of_author(envelope.post_created.author_id)
        elif envelope.HasField("fanout_chunk"):
            chunk = _chunk(record, envelope.fanout_chunk)
            if chunk is not None:
                await self._unlink_feeds.of(chunk.followers.tolist())


class AuditedRecords:
    """Handles posts.created: offers posts to the audit. What it took a sample of is lost with the process."""

    def __init__(self, audit: AuditDeliveries) -> None:
        self._audit = audit

    async def __call__(self, batch: Batch) -> None:
        await self._audit.note([post for _, post in _posts(batch)])


class BackfillRecords:
    """Handles graph.by_follower."""

    def __init__(self, backfill: BackfillFollows) -> None:
        self._backfill = backfill

    async def __call__(self, batch: Batch) -> None:
        changed = [envelope.follow_changed for _, envelope in batch if envelope.HasField("follow_changed")]
        await self._backfill(
            [
                NewFollow(event.follower_id, event.followee_id)
                for event in changed
                if event.state == FOLLOW_STATE_FOLLOWING
            ]
        )


def _posts(batch: Batch) -> list[tuple[Record, NewPost]]:
    return [
        (record, post)
        for record, envelope in batch
        if envelope.HasField("post_created") and (post := _post(record, envelope.post_created)) is not None
    ]


def _post(record: Record, event: PostCreated) -> NewPost | None:
    if event.post_id <= 0 or event.author_id <= 0:
        _ignore(record, "ID_NOT_POSITIVE")
        return None
    # A tier of a later version says nothing to this one: then the post is pushed.
    return NewPost(event.post_id, event.author_id, _TIERS.get(event.author_tier), event.author_followers)


def _chunk(record: Record, event: FanoutChunk) -> Chunk | None:
    if len(event.follower_ids) % 8 or not event.follower_ids or not event.post_ids:
        _ignore(record, "CHUNK_TORN")
        return None
    followers = np.frombuffer(event.follower_ids, dtype="<i8")
    post_ids = list(event.post_ids)
    if min(post_ids) <= 0 or followers.min() <= 0:
        _ignore(record, "ID_NOT_POSITIVE")
        return None
    return Chunk(
        author_id=event.author_id,
        post_ids=post_ids,
        followers=followers,
        number=event.number,
        last=event.last,
        created_ms=event.created_ms,
        rate_limited=event.rate_limited,
        pulled=event.pulled,
    )


def _ignore(record: Record, reason: str) -> None:
    RECORDS_IGNORED.labels(record.topic, reason).inc()
    logger.warning(
        "record_ignored", topic=record.topic, partition=record.partition, offset=record.offset, reason=reason
    )

"""What the audit asks, over gRPC, and what it tells, as metrics and a line of the log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from fanout_worker.model import Sample
from foundation.cards import decode_card
from foundation.people import ReadThroughPeople
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel
from foundation.telemetry.logging import logger
from foundation.telemetry.metrics import AUDIT_CHECKED, AUDIT_UNKNOWN, AUDIT_VIOLATIONS
from foundation.timeline.port import Owners
from foundation.viewers import ViewerRecord
from foundation.visibility import PostState

TIMEOUT_S = 2.0


class AuditedGraph:
    """fanout_worker.ports.Graph."""

    def __init__(self, redis: RedisCluster, channel: InternalChannel) -> None:
        self._channel = channel
        self._stub = GraphInternalServiceStub(channel.grpc)
        self._people = ReadThroughPeople(redis, channel)

    async def some_followers(self, author_id: int) -> Owners:
        request = graph_pb.StreamFollowersRequest(user_ids=[author_id])
        # The first page is enough: leaving the stream cancels the rest.
        async for page in self._channel.stream(self._stub.StreamFollowers, request, TIMEOUT_S):
            return np.frombuffer(page.follower_ids, dtype="<i8")
        return np.empty(0, dtype=np.int64)

    async def viewer(self, user_id: int) -> ViewerRecord:
        return await self._people.viewer_from_rows(user_id)


class AuditedPosts:
    """fanout_worker.ports.Posts."""

    def __init__(self, channel: InternalChannel) -> None:
        self._channel = channel
        self._stub = PostInternalServiceStub(channel.grpc)

    async def exists(self, post_id: int) -> bool:
        request = post_pb.BatchGetPostsRequest(post_ids=[post_id])
        answer = await self._channel.call(self._stub.BatchGetPosts, request, TIMEOUT_S)
        card = decode_card(answer.cards[0]) if answer.cards else None
        return card is not None and card.state is not PostState.DELETED


class MeasuredAudit:
    """fanout_worker.ports.AuditReport."""

    def looked(self, sample: Sample, readers: int, missing: Sequence[int], window_s: float) -> None:
        window = f"{window_s:g}s"
        AUDIT_CHECKED.labels(window).inc(readers)
        AUDIT_VIOLATIONS.labels(window).inc(len(missing))
        if missing:
            logger.error(
                "feed_audit_violation",
                post_id=sample.post_id,
                author_id=sample.author_id,
                readers=list(missing),
                window=window,
            )

    def unknown(self) -> None:
        AUDIT_UNKNOWN.inc()

"""Followers over graph_svc's stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import (
    GraphInternalServiceStub,
)

from foundation.rpc.channels import InternalChannel
from foundation.timeline.port import Owners

TIMEOUT_S = 60.0
"""For a whole stream: 100,000 followers are 100 pages."""
AUTHORS_PER_STREAM = 1_000


class GrpcFollowers:
    """fanout_worker.ports.Followers."""

    def __init__(self, channel: InternalChannel) -> None:
        self._channel = channel
        self._stub = GraphInternalServiceStub(channel.grpc)

    async def pages(self, author_ids: Sequence[int]) -> AsyncIterator[tuple[int, Owners]]:
        for start in range(0, len(author_ids), AUTHORS_PER_STREAM):
            request = pb.StreamFollowersRequest(user_ids=author_ids[start : start + AUTHORS_PER_STREAM])
            async for page in self._channel.stream(self._stub.StreamFollowers, request, TIMEOUT_S):
                yield page.user_id, np.frombuffer(page.follower_ids, dtype="<i8")

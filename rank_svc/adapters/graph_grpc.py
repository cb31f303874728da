"""Graph over Redis and graph_svc: viewer and author records, a batch each; what is not in Redis comes from rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub

from foundation.cards import AuthorCard
from foundation.errors import Internal
from foundation.people import ReadThroughPeople
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel
from foundation.viewers import ViewerRecord, decode_viewer, viewer_key

TIMEOUT_S = 1.0


class GrpcGraph:
    """rank_svc.ports.Graph."""

    def __init__(self, redis: RedisCluster, channel: InternalChannel, people: ReadThroughPeople) -> None:
        self._redis = redis
        self._channel = channel
        self._stub = GraphInternalServiceStub(channel.grpc)
        self._people = people

    async def viewers(self, user_ids: Sequence[int]) -> Mapping[int, ViewerRecord]:
        records = await self._redis.try_execute([("GET", viewer_key(user_id)) for user_id in user_ids])
        found = _decoded(user_ids, records)
        missing = [user_id for user_id in user_ids if user_id not in found]
        if missing:
            request = pb.GetViewerGraphRequest(user_ids=missing)
            answer = await self._channel.call(self._stub.GetViewerGraph, request, TIMEOUT_S)
            # grpc.aio has None for bytes that are no message.
            if answer is None or len(answer.viewers) != len(missing):
                raise Internal("ANSWER_INVALID")
            found |= _decoded(missing, answer.viewers)
        return found

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        return await self._people.authors(user_ids)


def _decoded(user_ids: Sequence[int], records: Iterable[Any]) -> dict[int, ViewerRecord]:
    """Of the records that are there."""
    return {
        user_id: viewer
        for user_id, record in zip(user_ids, records, strict=True)
        if isinstance(record, bytes) and (viewer := decode_viewer(record)) is not None
    }

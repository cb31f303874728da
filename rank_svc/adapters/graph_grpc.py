"""Graph over graph_svc: viewer records in one batch, author records from Redis first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub

from foundation.cards import AuthorCard
from foundation.people import ReadThroughPeople
from foundation.rpc.channels import InternalChannel
from foundation.viewers import ViewerRecord, decode_viewer

TIMEOUT_S = 1.0


class GrpcGraph:
    """rank_svc.ports.Graph."""

    def __init__(self, channel: InternalChannel, people: ReadThroughPeople) -> None:
        self._channel = channel
        self._stub = GraphInternalServiceStub(channel.grpc)
        self._people = people

    async def viewers(self, user_ids: Sequence[int]) -> Mapping[int, ViewerRecord]:
        if not user_ids:
            return {}
        request = pb.GetViewerGraphRequest(user_ids=user_ids)
        answer = await self._channel.call(self._stub.GetViewerGraph, request, TIMEOUT_S)
        return {
            user_id: viewer
            for user_id, record in zip(user_ids, answer.viewers, strict=True)
            if record and (viewer := decode_viewer(record)) is not None
        }

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        return await self._people.authors(user_ids)

"""Graph over graph_svc's internal service."""

from __future__ import annotations

from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import (
    GraphInternalServiceStub,
)
from foundation.rpc.channels import InternalChannel

from foundation.errors import Internal, NotFound
from foundation.viewers import ViewerRecord, decode_viewer

TIMEOUT_S = 0.5


class GrpcGraph:
    """feed_svc.ports.Graph."""

    def __init__(self, channel: InternalChannel) -> None:
        self._channel = channel
        self._stub = GraphInternalServiceStub(channel.grpc)

    async def viewer(self, viewer_id: int) -> ViewerRecord:
        request = pb.GetViewerGraphRequest(user_ids=[viewer_id])
        answer = await self._channel.call(self._stub.GetViewerGraph, request, TIMEOUT_S)
        if not answer.viewers or not answer.viewers[0]:
            raise NotFound("USER_NOT_FOUND", "no such user")
        record = decode_viewer(answer.viewers[0])
        if record is None:
            raise Internal("VIEWER_LAYOUT_UNKNOWN")
        return record

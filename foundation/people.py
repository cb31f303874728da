"""Viewer and author records, read through: Redis first, graph_svc on a miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub

from foundation.cards import AuthorCard, author_key, decode_author
from foundation.errors import Internal, NotFound
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel
from foundation.viewers import ViewerRecord, decode_viewer, viewer_key

TIMEOUT_S = 0.5
AUTHORS_PER_CALL = 100
"""A store that is asked author by author answers for so many well within a call's time."""


class ReadThroughPeople:
    """The records that visibility stands on."""

    def __init__(self, redis: RedisCluster, graph: InternalChannel, *, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = redis
        self._graph = graph
        self._timeout_s = timeout_s
        self._stub = GraphInternalServiceStub(graph.grpc)

    async def viewer(self, user_id: int) -> ViewerRecord:
        """The viewer record. Raises NotFound(USER_NOT_FOUND), Unavailable, DeadlineExceeded, Internal for nonsense."""
        (record,) = await self._redis.try_execute([("GET", viewer_key(user_id))])
        viewer = decode_viewer(record) if isinstance(record, bytes) else None
        return viewer or await self.viewer_from_rows(user_id)

    async def viewer_from_rows(self, user_id: int) -> ViewerRecord:
        """The viewer record from its owner, who also fills Redis. Raises like viewer."""
        answer = await self._graph.call(
            self._stub.GetViewerGraph, pb.GetViewerGraphRequest(user_ids=[user_id]), self._timeout_s
        )
        if answer is None or len(answer.viewers) != 1:
            raise Internal("ANSWER_INVALID")
        if not answer.viewers[0]:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=user_id)
        viewer = decode_viewer(answer.viewers[0])
        if viewer is None:
            raise Internal("VIEWER_LAYOUT_UNKNOWN")
        return viewer

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        """Author records of the users that exist. Raises Unavailable, DeadlineExceeded, Internal for nonsense."""
        if not user_ids:
            return {}
        replies = await self._redis.try_execute([("GET", author_key(user_id)) for user_id in user_ids])
        found = decode_authors(user_ids, [reply if isinstance(reply, bytes) else None for reply in replies])
        missing = [user_id for user_id in user_ids if user_id not in found]
        return {**found, **await self.authors_from_rows(missing)} if missing else found

    async def authors_from_rows(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        """Author records from their owner, who also fills Redis. Raises like authors."""
        found: dict[int, AuthorCard] = {}
        for start in range(0, len(user_ids), AUTHORS_PER_CALL):
            some = user_ids[start : start + AUTHORS_PER_CALL]
            request = pb.BatchGetAuthorsRequest(user_ids=some)
            answer = await self._graph.call(self._stub.BatchGetAuthors, request, self._timeout_s)
            # grpc.aio has None for bytes that are no message.
            if answer is None or len(answer.authors) != len(some):
                raise Internal("ANSWER_INVALID")
            found |= decode_authors(some, [record or None for record in answer.authors])
        return found


def decode_authors(user_ids: Sequence[int], records: Sequence[bytes | None]) -> dict[int, AuthorCard]:
    """Records that are there and of a known layout, by user."""
    return {
        user_id: author
        for user_id, record in zip(user_ids, records, strict=True)
        if record is not None and (author := decode_author(user_id, record)) is not None
    }

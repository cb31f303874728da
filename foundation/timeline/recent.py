"""The newest ids of authors, read through: author timelines from Redis, cold ones from post_svc in one batched call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedmesh.post.v1 import post_internal_service_pb2 as pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from foundation.errors import Internal, Unavailable
from foundation.rpc.channels import InternalChannel
from foundation.timeline.port import Timeline, Timelines


class ReadThroughRecentPosts:
    """The port RecentPosts of feed_svc and fanout_worker."""

    def __init__(self, timelines: Timelines, channel: InternalChannel, *, timeout_s: float) -> None:
        self._timelines = timelines
        self._channel = channel
        self._stub = PostInternalServiceStub(channel.grpc)
        self._timeout_s = timeout_s

    async def of(self, author_ids: Sequence[int], *, after_id: int = 0) -> Mapping[int, Timeline]:
        """An entry for every author: its ids above *after_id*, complete above the entry's floor.

        Raises Unavailable or DeadlineExceeded when the store does not answer for a cold author, Internal for nonsense.
        """
        try:
            found = dict(await self._timelines.read(author_ids))
        except (Unavailable, Internal):
            found = {}
        cold = [author_id for author_id in author_ids if author_id not in found]
        if cold:
            request = pb.ListRecentPostsRequest(author_ids=cold, after_id=after_id)
            answer = await self._channel.call(self._stub.ListRecentPosts, request, self._timeout_s)
            # grpc.aio has None for bytes that are no message.
            if answer is None or {author.author_id for author in answer.authors} != {*cold}:
                raise Internal("ANSWER_INVALID")
            for author in answer.authors:
                found[author.author_id] = Timeline(tuple(author.post_ids), author.floor)
        return found

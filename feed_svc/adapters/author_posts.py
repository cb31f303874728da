"""AuthorPosts over Redis: parts of author timelines; what they lack comes from post_svc, many authors in one call."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from operator import neg

from feedmesh.post.v1 import post_internal_service_pb2 as pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from feed_svc.degradation import note
from feed_svc.model import Degraded
from foundation.errors import DomainError
from foundation.rpc.channels import InternalChannel
from foundation.timeline.port import CAPACITY, Timeline, Timelines

AUTHORS_PER_CALL = 1_000
IDS_PER_ANSWER = 400_000
"""Nine bytes each at most: an answer stays below the limit of a message."""


class ReadThroughAuthorPosts:
    """feed_svc.ports.AuthorPosts."""

    def __init__(self, timelines: Timelines, channel: InternalChannel, *, timeout_s: float) -> None:
        self._timelines = timelines
        self._channel = channel
        self._stub = PostInternalServiceStub(channel.grpc)
        self._timeout_s = timeout_s

    async def below(
        self,
        author_ids: Sequence[int],
        *,
        before_id: int,
        after_id: int,
        limit: int,
        hot: Collection[int] = (),  # noqa: ARG002 - everybody is read anew here; HotAuthorPosts makes the difference
    ) -> Mapping[int, Timeline]:
        found: dict[int, Timeline] = {}
        cold: list[int] = []
        unheld: list[int] = []

        def take(author_id: int, part: Timeline) -> None:
            """A floor at the bound tells nothing of what is below it: that is in the rows."""
            if part.floor >= before_id - 1:
                unheld.append(author_id)
            else:
                found[author_id] = part

        parts = await self._timelines.read_below(author_ids, before_id=before_id, limit=limit)
        for author_id, part in parts.items():
            if isinstance(part, Timeline):
                take(author_id, part)
            elif part is None:
                cold.append(author_id)
            else:
                note(Degraded.CACHE_UNAVAILABLE)
                unheld.append(author_id)
        if cold:
            filled = await _in_chunks(cold, lambda chunk: self._filled(chunk, after_id))
            for author_id, timeline in filled.items():
                take(author_id, part_below(timeline, before_id=before_id, limit=limit))
        if unheld:
            found |= await _in_chunks(unheld, lambda chunk: self._from_rows(chunk, before_id, after_id, limit))
        return found

    async def _filled(self, chunk: Sequence[int], after_id: int) -> Mapping[int, Timeline]:
        """Whole timelines of cold authors, which are warm afterwards."""
        limit = min(CAPACITY, IDS_PER_ANSWER // len(chunk))
        return await self._ask(pb.ListRecentPostsRequest(author_ids=chunk, after_id=after_id, limit_per_author=limit))

    async def _from_rows(
        self, chunk: Sequence[int], before_id: int, after_id: int, limit: int
    ) -> Mapping[int, Timeline]:
        return await self._ask(
            pb.ListRecentPostsRequest(
                author_ids=chunk,
                after_id=after_id,
                before_id=before_id,
                limit_per_author=min(limit, CAPACITY, IDS_PER_ANSWER // len(chunk)),
            )
        )

    async def _ask(self, request: pb.ListRecentPostsRequest) -> Mapping[int, Timeline]:
        try:
            answer = await self._channel.call(self._stub.ListRecentPosts, request, self._timeout_s)
        except DomainError:
            return {}  # the caller sees who is missing
        if answer is None:
            return {}  # of grpc.aio, for bytes that are no message
        return {author.author_id: Timeline(tuple(author.post_ids), author.floor) for author in answer.authors}


def part_below(timeline: Timeline, *, before_id: int, limit: int) -> Timeline:
    """The *limit* greatest ids of *timeline* below *before_id*, and the floor above which they are all."""
    ids = timeline.ids
    begin = bisect_right(ids, -before_id, key=neg)  # descending
    end = begin + limit
    return Timeline(ids[begin:end], ids[end] if len(ids) > end else timeline.floor)


async def _in_chunks(
    author_ids: Sequence[int], ask: Callable[[Sequence[int]], Awaitable[Mapping[int, Timeline]]]
) -> dict[int, Timeline]:
    chunks = [author_ids[at : at + AUTHORS_PER_CALL] for at in range(0, len(author_ids), AUTHORS_PER_CALL)]
    answers = await asyncio.gather(*map(ask, chunks))
    return {author_id: timeline for answer in answers for author_id, timeline in answer.items()}

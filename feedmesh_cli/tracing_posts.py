"""Where a post is: its row, its events, what went wrong with them, and the timelines that should hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.log_access import as_data, log_of, read_all
from feedmesh_cli.mesh_file import Mesh
from foundation.cards import decode_card
from foundation.errors import DomainError
from foundation.events.envelope import Undecodable, decode
from foundation.events.port import (
    DEAD_LETTERS,
    FEED_FANOUT,
    POSTS_CREATED,
    POSTS_DELETED,
    POSTS_UPDATED,
    RETRY_1M,
    RETRY_5S,
    RETRY_10M,
    Record,
)
from foundation.model.ids import created_ms
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import internal_channel
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from foundation.timeline.redis import AUTHOR_POSTS, FEED, route_key, timeline_key

LOOKED_AT = (POSTS_CREATED, POSTS_UPDATED, POSTS_DELETED, FEED_FANOUT, RETRY_5S, RETRY_1M, RETRY_10M, DEAD_LETTERS)
LEFT_TO_READERS = ("pull:", "gap:")
"""How the routes begin whose posts are in feeds by chance alone."""
MISSED = "miss it"
PULLED = "pull it when they read"
NAMED = 10
"""Followers that are named where the post is missing."""
CALL_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class Trace:
    """What is known of one post."""

    post_id: str
    created_ms: int
    row: dict[str, Any] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    """Records of the log that speak of it, retries and dead letters too."""
    route: str = ""
    """What the fan-out decided, and why."""
    author_posts: str = ""
    """How the author's own timeline stands."""
    feeds: dict[str, int] = field(default_factory=dict)
    """How many followers' timelines hold it, are cold, lie above it, or miss it."""
    missing: list[str] = field(default_factory=list)
    """Some followers whose timeline misses it."""

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        lines = [f"post {self.post_id}, created at {self.created_ms} ms"]
        row = self.row
        lines.append(
            f"  row      {row['state']}, version {row['version']}, by {row['author_id']}" if row else "  row      none"
        )
        for record in self.records:
            event = record.get("event", {})
            kind = next(
                (name for name in event if name.startswith(("post_", "fanout_"))), record.get("undecodable", "")
            )
            lines.append(f"  log      {record['topic']} {record['partition']}:{record['offset']}  {kind}")
        lines.append(f"  route    {self.route}")
        lines.append(f"  author   {self.author_posts}")
        lines.append("  feeds    " + ", ".join(f"{count} {what}" for what, count in self.feeds.items()))
        if self.missing:
            lines.append(f"  MISSING in the feeds of {', '.join(self.missing)}")
        return "\n".join(lines)


async def trace_post(mesh: Mesh, post_id: int) -> Trace:
    """Everything about *post_id*. Raises CliError when a part of the mesh does not answer."""
    trace = Trace(post_id=str(post_id), created_ms=created_ms(post_id))
    try:
        author_id = await _row(mesh, post_id, trace)
        async with log_of(mesh) as log:
            async for record in read_all(log, LOOKED_AT):
                if _speaks_of(record, post_id):
                    trace.records.append(as_data(record, decoded=True))
        if author_id:
            async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
                (standing,) = await _standings(redis, AUTHOR_POSTS, [author_id], post_id)
                trace.author_posts = f"author_posts of {author_id}: {standing}"
                trace.route = await _route(redis, post_id)
                await _feeds(mesh, redis, author_id, post_id, trace)
    except DomainError as failure:
        raise CliError(
            f"the trace came only so far: {failure.message}",
            where=trace.as_text(),
            cause=failure.reason,
            next_step="feedmesh status",
            code=ExitCode.UNHEALTHY,
        ) from failure
    return trace


async def _row(mesh: Mesh, post_id: int, trace: Trace) -> int:
    async with internal_channel(mesh.services["post_svc"], mesh.internal_key) as channel:
        stub = PostInternalServiceStub(channel.grpc)
        request = post_pb.BatchGetPostsRequest(post_ids=[post_id])
        answer = await channel.call(stub.BatchGetPosts, request, CALL_TIMEOUT_S)
    card = decode_card(answer.cards[0]) if answer.cards else None
    if card is None:
        return 0
    trace.row = {"author_id": str(card.author_id), "state": card.state.name, "version": str(card.version)}
    return card.author_id


async def _route(redis: RedisCluster, post_id: int) -> str:
    (kept,) = await redis.execute([("GET", route_key(post_id))])
    # Every other decision is kept for a day.
    return kept.decode() if kept else "inline: at most 1,000 followers, or over a day ago"


async def _feeds(mesh: Mesh, redis: RedisCluster, author_id: int, post_id: int, trace: Trace) -> None:
    found: Counter[str] = Counter()
    async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        request = graph_pb.StreamFollowersRequest(user_ids=[author_id])
        async for page in channel.stream(stub.StreamFollowers, request, STREAM_TIMEOUT_S):
            followers = np.frombuffer(page.follower_ids, dtype="<i8").tolist()
            standings = await _standings(redis, FEED, followers, post_id)
            found.update(standings)
            lacking = [follower for follower, one in zip(followers, standings, strict=True) if one == MISSED]
            trace.missing += [str(follower) for follower in lacking[: NAMED - len(trace.missing)]]
    if trace.route.startswith(LEFT_TO_READERS):
        found[PULLED] = found.pop(MISSED, 0)
        trace.missing = []
    trace.feeds = {what: followers for what, followers in found.items() if followers}


async def _standings(redis: RedisCluster, family: str, owners: Sequence[int], post_id: int) -> list[str]:
    """How each owner's timeline stands to the post."""
    keys = [timeline_key(family, owner) for owner in owners]
    replies = await redis.execute(
        [command for key in keys for command in (("LPOS", key, post_id), ("LINDEX", key, -1))], timeout_s=2.0
    )
    return [_standing(place, floor, post_id) for place, floor in zip(replies[::2], replies[1::2], strict=True)]


def _standing(place: int | None, floor: bytes | None, post_id: int) -> str:
    if floor is None or floor.startswith(b"!"):
        return "cold (rebuilt when read)"
    if place is not None and int(floor) != post_id:
        return "hold it"
    return "lie above it (read from the store)" if int(floor) >= post_id else MISSED


def _speaks_of(record: Record, post_id: int) -> bool:
    try:
        envelope = decode(record.value)
    except Undecodable:
        return False
    kind = envelope.WhichOneof("event") or ""
    if kind == "fanout_chunk":
        return post_id in envelope.fanout_chunk.post_ids
    return kind.startswith("post_") and getattr(envelope, kind).post_id == post_id

"""A small network whose feed_svc and rank_svc reach everything through links that a test breaks."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub
from grpc import aio

import feed_svc.settings
import rank_svc.settings
from feedmesh_cli.children import start_child
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh
from feedmesh_cli.ports import free_ports
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.model.ids import MAX_ID
from foundation.recommendations import encode_recommendations, recommendations_key
from foundation.redis.client import RedisCluster, connect, slot_of_key
from foundation.rpc.channels import internal_channel
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.settings import to_environment
from foundation.viewers import encode_viewer, viewer_key
from foundation.visibility import UserState
from tests.kit.eventually import eventually
from tests.kit.faults import Link, RedisDoor, RpcLink, redis_doors
from tests.kit.mesh import Client

FRIENDS = 6
POSTS_EACH = 4
STRANGERS = 2
DEGRADED = re.compile(r'^feedmesh_degraded_total\{reason="([A-Z_]+)"\} ([0-9.]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """What a caller of GetFeed saw."""

    page: feed_pb.GetFeedResponse
    seconds: float
    header: str
    """x-feed-quality."""

    @property
    def ids(self) -> list[int]:
        return [post.post_id for post in self.page.posts]

    @property
    def reasons(self) -> set[str]:
        return {feed_pb2.DegradedReason.Name(reason) for reason in self.page.degraded_reasons}


@dataclass(frozen=True)
class Strained:
    """Ana follows her friends, the first of whom is pulled and not pushed; everything about her is warm."""

    client: Client
    feed: FeedServiceStub
    status: str
    doors: dict[str, RedisDoor]
    """`viewer`: Ana's own node; `authors`: that of her friends; `others`: cards and features."""
    graph: RpcLink
    posts: RpcLink
    rank: RpcLink
    log: Link
    """To the privacy log."""
    redis: RedisCluster
    """Past the doors."""
    ana: int
    friends: Sequence[int]
    whole: Sequence[int]
    """Her feed, newest first."""
    strangers: Sequence[int]
    """Posts of somebody whom nobody follows."""

    def of(self, author: int) -> list[int]:
        """The author's posts."""
        place = self.friends.index(author)
        return [post for post in self.whole if self.whole[::-1].index(post) % len(self.friends) == place]

    async def ask(self, *, cursor: str = "", mode: feed_pb2.FeedMode = feed_pb2.RANKED, limit: int = 20) -> Answer:
        """Raises AioRpcError."""
        request = feed_pb.GetFeedRequest(cursor=cursor, mode=mode, limit=limit)
        began = time.monotonic()
        call = self.feed.GetFeed(request, metadata=self.client.as_user(self.ana), timeout=5)
        page = await call
        seconds = time.monotonic() - began
        metadata = dict(iter(await call.initial_metadata() or ()))
        return Answer(page, seconds, str(metadata["x-feed-quality"]))

    async def counted(self) -> dict[str, float]:
        """How many answers gave each reason."""
        _, page = await get(self.status, "/metrics")
        return {reason: float(value) for reason, value in DEGRADED.findall(page.decode())}

    async def heal(self) -> None:
        """Everything is well, and Ana's records are what they were."""
        for door in self.doors.values():
            await door.heals()
        for link in (self.graph, self.posts, self.rank, self.log):
            await link.heals()

        async def warm() -> bool:
            try:
                await warm_viewer(self.redis, self.ana, self.friends)
                await self.redis.execute([("DEL", recommendations_key(self.ana))])
            except Unavailable:  # it was silent just now
                return False
            return True

        await eventually(warm, timeout_s=5)

    async def recommend(self) -> None:
        """The strangers' posts, just now."""
        record = encode_recommendations(self.strangers, SystemClock().now_ms())
        await self.redis.execute([("SET", recommendations_key(self.ana), record)])

    async def normal(self, prepare: Callable[[], Awaitable[None]] | None = None) -> Answer:
        """The first perfect answer, within the time that recovery may take; each request is prepared."""

        async def perfect() -> Answer | None:
            if prepare is not None:
                await prepare()
            try:
                answer = await self.ask(limit=30)
            except aio.AioRpcError:
                return None
            return answer if answer.page.quality == feed_pb2.NORMAL else None

        return await eventually(perfect, timeout_s=5)


async def warm_viewer(redis: RedisCluster, ana: int, friends: Sequence[int]) -> None:
    """A record that names the first friend as pulled; nothing newer replaces it."""
    record = encode_viewer(
        version=MAX_ID, state=UserState.ACTIVE, follows=friends, blocks=(), mutes=(), pulled=friends[:1]
    )
    await redis.execute([("SET", viewer_key(ana), record)])


@asynccontextmanager
async def strained(mesh: Mesh, logs: Path, log: Link, log_url: str) -> AsyncIterator[Strained]:
    """The network in *mesh*. Its feed_svc hears of privacy from the empty log at *log_url*, which *log* leads to."""
    async with AsyncExitStack() as stack:
        client = Client(mesh)
        stack.push_async_callback(client.close)
        graph_channel = await stack.enter_async_context(internal_channel(mesh.services["graph_svc"], mesh.internal_key))
        graph_stub = GraphInternalServiceStub(graph_channel.grpc)
        names = [f"friend{place}" for place in range(FRIENDS + 2)]
        made = await graph_channel.call(graph_stub.ImportUsers, graph_pb.ImportUsersRequest(usernames=names), 30)
        ana, stranger, *friends = made.user_ids
        follows = graph_pb.ImportFollowsRequest(
            follower_ids=ana.to_bytes(8, "little") * FRIENDS,
            followee_ids=b"".join(friend.to_bytes(8, "little") for friend in friends),
        )
        await graph_channel.call(graph_stub.ImportFollows, follows, 30)
        await client.settled()
        assert await client.latest(ana) == []
        post_channel = await stack.enter_async_context(internal_channel(mesh.services["post_svc"], mesh.internal_key))
        post_stub = PostInternalServiceStub(post_channel.grpc)
        drafts = [post_pb.ImportedPost(author_id=friend, caption="a post") for friend in friends * POSTS_EACH]
        drafts += [post_pb.ImportedPost(author_id=stranger, caption="a post")] * STRANGERS
        written = await post_channel.call(post_stub.ImportPosts, post_pb.ImportPostsRequest(posts=drafts), 30)
        await client.settled()

        host, port = mesh.redis.split(",")[0].split(":")
        redis = await connect([(host, int(port))], timeout_s=1.0)
        stack.push_async_callback(redis.close)
        await warm_viewer(redis, ana, friends)
        roles = {
            "viewer": [slot_of_key(viewer_key(ana))],
            "authors": [slot_of_key(viewer_key(friend)) for friend in friends],
        }
        doors = await stack.enter_async_context(redis_doors((host, int(port)), roles))
        graph = await stack.enter_async_context(RpcLink(mesh.services["graph_svc"]))
        posts = await stack.enter_async_context(RpcLink(mesh.services["post_svc"]))
        feed_port, feed_status, rank_port = free_ports(3)
        rank = await stack.enter_async_context(RpcLink(f"127.0.0.1:{rank_port}"))
        told = MeshSettings(
            redis=doors["others"].address,
            log_url=mesh.log_url,
            jwks_path=str(DevIssuer.load_or_create(mesh.directory / "keys").jwks_path),
            internal_key=mesh.internal_key,
            graph_svc=graph.address,
            post_svc=posts.address,
            rank_svc=rank.address,
            worker=7,
        )
        feed = feed_svc.settings.Settings(
            mesh=replace(told, log_url=log_url, port=feed_port, status_port=feed_status),
            database_url=f"sqlite:///{logs / 'feed.db'}",
            cursor_key="00" * 32,
            kept_cards=0,
        )
        # It keeps no cards, and fewer features than a feed has posts, so that every request needs the stores.
        ranking = rank_svc.settings.Settings(mesh=replace(told, port=rank_port), cache_rows=8)
        for name, settings in (("rank_svc", ranking), ("feed_svc", feed)):
            command = [sys.executable, "-m", name]
            child = await start_child(name, command, logs / f"{name}.log", environment=to_environment(settings))
            stack.push_async_callback(child.stop, grace_s=5.0)
        channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{feed_port}"))
        made_of = Strained(
            client=client,
            feed=FeedServiceStub(channel),
            status=f"127.0.0.1:{feed_status}",
            doors=doors,
            graph=graph,
            posts=posts,
            rank=rank,
            log=log,
            redis=redis,
            ana=ana,
            friends=friends,
            whole=sorted(written.post_ids[:-STRANGERS], reverse=True),
            strangers=written.post_ids[-STRANGERS:],
        )

        async def serving() -> bool:
            try:
                return (await made_of.ask()).page.quality == feed_pb2.NORMAL
            except aio.AioRpcError:
                return False

        await eventually(serving, timeout_s=30)
        yield made_of

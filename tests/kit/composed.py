"""The services composed in this process, without an edge: for tests that set them otherwise than a mesh is started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.graph.v1.graph_service_pb2_grpc import GraphServiceStub
from feedmesh.graph.v1.user_service_pb2_grpc import UserServiceStub
from feedmesh.post.v1 import post_service_pb2 as post_pb
from feedmesh.post.v1.post_service_pb2_grpc import PostServiceStub
from grpc import aio

import fanout_worker.composition
import fanout_worker.settings
import feed_svc.composition
import feed_svc.settings
import graph_svc.composition
import graph_svc.settings
import post_svc.composition
import post_svc.settings
import rank_svc.composition
import rank_svc.settings
from feedmesh_cli.consumer_groups import CONSUMER_GROUPS
from feedmesh_cli.ports import free_ports
from foundation.cards import author_key, decode_author
from foundation.events.port import EventLog
from foundation.model.clock import SystemClock
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from foundation.timeline.redis import FEED, RedisTimelines
from tests.kit.eventually import eventually

CURSOR_KEY = "00" * 32


@dataclass
class ComposedMesh:
    """A mesh without an edge, and calls to it as its users."""

    settings: MeshSettings
    data: Path
    issuer: DevIssuer
    redis: RedisCluster
    log: EventLog
    users: UserServiceStub
    graph: GraphServiceStub
    posts: PostServiceStub
    feed: FeedServiceStub

    def as_user(self, user: int) -> tuple[tuple[str, str], ...]:
        token = self.issuer.mint(user, f"u{user}", now_s=SystemClock().now_ms() // 1_000)
        return (("authorization", f"Bearer {token}"),)

    async def people(self, count: int) -> list[int]:
        made = [
            await self.users.CreateUser(user_pb.CreateUserRequest(username=f"person{place}"), timeout=5)
            for place in range(count)
        ]
        return [answer.user.user_id for answer in made]

    async def follow(self, followers: Sequence[int], author: int) -> None:
        for follower in followers:
            request = graph_pb.FollowRequest(user_id=author)
            await self.graph.Follow(request, metadata=self.as_user(follower), timeout=5)

    async def unfollow(self, followers: Sequence[int], author: int) -> None:
        for follower in followers:
            request = graph_pb.UnfollowRequest(user_id=author)
            await self.graph.Unfollow(request, metadata=self.as_user(follower), timeout=5)

    async def becomes(self, author: int, tier: Tier) -> None:
        """Wait until writers are told that the author is of *tier*."""

        async def told() -> bool:
            (record,) = await self.redis.execute([("GET", author_key(author))])
            card = decode_author(author, record) if record is not None else None
            return card is not None and card.tier is tier

        await eventually(told)

    async def post(self, author: int) -> int:
        """By the post_svc of this mesh, which may know the author's tier of a minute ago."""
        request = post_pb.CreatePostRequest(caption="a post")
        answer = await self.posts.CreatePost(request, metadata=self.as_user(author), timeout=5)
        return int(answer.post_id)

    async def post_by_another(self, author: int, *, worker: int) -> int:
        """By a post_svc that has just started: it knows the author's tier of now. Delivered when it returns."""
        (port,) = free_ports(1)
        mesh = replace(self.settings, port=port, worker=worker)
        settings = post_svc.settings.Settings(
            mesh=mesh, database_url=f"sqlite:///{self.data}/posts.db", cursor_key=CURSOR_KEY
        )
        async with post_svc.composition.compose(settings), aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = post_pb.CreatePostRequest(caption="a post")
            answer = await PostServiceStub(channel).CreatePost(request, metadata=self.as_user(author), timeout=5)
        # It has published what it wrote before it stopped.
        await self.settled()
        return int(answer.post_id)

    async def settled(self) -> None:
        async def caught_up() -> bool:
            return not any([await self.log.lag(group, topics) for group, topics in CONSUMER_GROUPS.items()])

        await eventually(caught_up)

    async def seen(self, user: int, mode: feed_pb2.FeedMode.ValueType) -> list[int]:
        request = feed_pb.GetFeedRequest(limit=50, mode=mode)
        page = await self.feed.GetFeed(request, metadata=self.as_user(user), timeout=5)
        return [post.post_id for post in page.posts]

    async def all_see(self, users: Sequence[int], posts: Sequence[int]) -> None:
        """*posts*, newest first, are the LATEST feed of each of *users*, and what the RANKED one consists of."""
        for user in users:
            assert await self.seen(user, feed_pb2.LATEST) == list(posts)
            assert sorted(await self.seen(user, feed_pb2.RANKED), reverse=True) == list(posts)

    async def was_pushed(self, user: int, post: int) -> bool:
        return post in (await RedisTimelines(self.redis, FEED).read([user]))[user].ids


@asynccontextmanager
async def composed_mesh(
    valkey: int, redis: RedisCluster, data: Path, *, graph: Mapping[str, Any], worker: Mapping[str, Any]
) -> AsyncIterator[ComposedMesh]:
    """Running; *graph* and *worker* are settings of graph_svc and fanout_worker beside their places."""
    names = ("graph_svc", "post_svc", "rank_svc", "fanout_worker", "feed_svc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    issuer = DevIssuer.load_or_create(data)
    base = MeshSettings(
        redis=f"127.0.0.1:{valkey}",
        log_url=f"sqlite:///{data}/log.db",
        jwks_path=str(issuer.jwks_path),
        internal_key="an internal key of a test",
        graph_svc=addresses["graph_svc"],
        post_svc=addresses["post_svc"],
        rank_svc=addresses["rank_svc"],
    )

    def on(name: str) -> MeshSettings:
        return replace(base, port=ports[name], worker=names.index(name) + 1)

    def store(name: str) -> str:
        return f"sqlite:///{data}/{name}.db"

    of_graph = graph_svc.settings.Settings(
        mesh=on("graph_svc"), database_url=store("graph"), cursor_key=CURSOR_KEY, **graph
    )
    of_posts = post_svc.settings.Settings(mesh=on("post_svc"), database_url=store("posts"), cursor_key=CURSOR_KEY)
    of_rank = rank_svc.settings.Settings(mesh=on("rank_svc"), recommendations=False)
    of_worker = fanout_worker.settings.Settings(mesh=on("fanout_worker"), **worker)
    of_feed = feed_svc.settings.Settings(
        mesh=on("feed_svc"), database_url=store("feed"), cursor_key=CURSOR_KEY, recommendations=False
    )
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(base))
        await stack.enter_async_context(graph_svc.composition.compose(of_graph))
        await stack.enter_async_context(post_svc.composition.compose(of_posts))
        await stack.enter_async_context(rank_svc.composition.compose(of_rank))
        await stack.enter_async_context(fanout_worker.composition.compose(of_worker))
        await stack.enter_async_context(feed_svc.composition.compose(of_feed))
        to_graph, to_posts, to_feed = [
            await stack.enter_async_context(aio.insecure_channel(addresses[name]))
            for name in ("graph_svc", "post_svc", "feed_svc")
        ]
        yield ComposedMesh(
            settings=base,
            data=data,
            issuer=issuer,
            redis=redis,
            log=log,
            users=UserServiceStub(to_graph),
            graph=GraphServiceStub(to_graph),
            posts=PostServiceStub(to_posts),
            feed=FeedServiceStub(to_feed),
        )

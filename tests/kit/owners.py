"""graph_svc and post_svc over SQLite and a Valkey, behind links that a test breaks: for what reads through to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

import graph_svc.composition
import graph_svc.settings
import post_svc.composition
import post_svc.settings
from feedmesh_cli.ports import free_ports
from foundation.redis.client import RedisCluster
from foundation.rpc.channels import InternalChannel, internal_channel
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from tests.kit.faults import RpcLink

KEY = "an internal key of a test"
CURSOR_KEY = "00" * 32


@dataclass(frozen=True, kw_only=True)
class Owners:
    """The owners of records, and channels to them through the links."""

    graph: RpcLink
    posts: RpcLink
    to_graph: InternalChannel
    to_posts: InternalChannel

    async def people(self, *names: str) -> list[int]:
        """New users."""
        stub = GraphInternalServiceStub(self.to_graph.grpc)
        made = await self.to_graph.call(stub.ImportUsers, graph_pb.ImportUsersRequest(usernames=names), 5)
        return list(made.user_ids)

    async def follow(self, follower: int, *followees: int) -> None:
        stub = GraphInternalServiceStub(self.to_graph.grpc)
        request = graph_pb.ImportFollowsRequest(
            follower_ids=follower.to_bytes(8, "little") * len(followees),
            followee_ids=b"".join(followee.to_bytes(8, "little") for followee in followees),
        )
        await self.to_graph.call(stub.ImportFollows, request, 5)

    async def write(self, *authors: int) -> Sequence[int]:
        """A post of each of *authors*, in their order."""
        stub = PostInternalServiceStub(self.to_posts.grpc)
        drafts = [post_pb.ImportedPost(author_id=author, caption="a post") for author in authors]
        written = await self.to_posts.call(stub.ImportPosts, post_pb.ImportPostsRequest(posts=drafts), 5)
        return list(written.post_ids)


@pytest.fixture
async def owners(valkey: int, redis: RedisCluster, tmp_path: Path) -> AsyncIterator[Owners]:
    """New ones, with nobody in them."""
    graph_port, post_port = free_ports(2)
    base = MeshSettings(
        redis=f"127.0.0.1:{valkey}",
        log_url=f"sqlite:///{tmp_path}/log.db",
        jwks_path=str(DevIssuer.load_or_create(tmp_path).jwks_path),
        internal_key=KEY,
        graph_svc=f"127.0.0.1:{graph_port}",
        post_svc=f"127.0.0.1:{post_port}",
    )
    graph = graph_svc.settings.Settings(
        mesh=replace(base, port=graph_port, worker=1),
        database_url=f"sqlite:///{tmp_path}/graph.db",
        cursor_key=CURSOR_KEY,
    )
    posts = post_svc.settings.Settings(
        mesh=replace(base, port=post_port, worker=2),
        database_url=f"sqlite:///{tmp_path}/posts.db",
        cursor_key=CURSOR_KEY,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(graph_svc.composition.compose(graph))
        await stack.enter_async_context(post_svc.composition.compose(posts))
        graph_link = await stack.enter_async_context(RpcLink(base.graph_svc))
        post_link = await stack.enter_async_context(RpcLink(base.post_svc))
        yield Owners(
            graph=graph_link,
            posts=post_link,
            to_graph=await stack.enter_async_context(internal_channel(graph_link.address, KEY)),
            to_posts=await stack.enter_async_context(internal_channel(post_link.address, KEY)),
        )

"""A whole mesh for system tests, started and stopped as a user would, and clients of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1.graph_service_pb2_grpc import GraphServiceStub
from feedmesh.graph.v1.user_service_pb2_grpc import UserServiceStub
from feedmesh.post.v1.post_service_pb2_grpc import PostServiceStub
from grpc import StatusCode, aio

from feedmesh_cli.failures import CliError
from feedmesh_cli.mesh_file import Mesh, load_mesh
from foundation.model.clock import SystemClock
from foundation.rpc.tokens import DevIssuer
from tests.kit.eventually import eventually

MAX_PAGES = 1_000
BUSY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)
ASKS_AGAIN_FOR_S = 20.0
"""As long as a patient client would: a mesh that was loaded a moment ago may refuse for some seconds on a small box."""


class Incomplete(AssertionError):
    """A feed that says it is not all that it should be."""


FEEDMESH = (sys.executable, "-m", "feedmesh_cli")


@contextmanager
def running_mesh(data: Path, *options: str, recommendations: bool = False) -> Iterator[Mesh]:
    """A mesh in *data* without a world; stopped at the end. Models of a feed are exact where nothing is recommended."""
    command = [*FEEDMESH, "up", "--detach", "--json", "--no-world", "--data", str(data), *options]
    command += [] if recommendations else ["--no-recommendations"]
    started = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert started.returncode == 0, started.stderr
    try:
        mesh = load_mesh(data)
        assert mesh is not None
        yield mesh
    finally:
        subprocess.run([*FEEDMESH, "down", "--data", str(data)], capture_output=True, timeout=60, check=False)


class Client:
    """Users of one mesh, over gRPC through its edge."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._issuer = DevIssuer.load_or_create(mesh.directory / "keys")
        self._channel = aio.insecure_channel(
            mesh.edge_address, options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)]
        )
        self.feed = FeedServiceStub(self._channel)
        self.posts = PostServiceStub(self._channel)
        self.graph = GraphServiceStub(self._channel)
        self.users = UserServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    def token(self, user_id: int) -> str:
        return self._issuer.mint(user_id, f"u{user_id}", now_s=SystemClock().now_ms() // 1000)

    def as_user(self, user_id: int) -> tuple[tuple[str, str], ...]:
        """Metadata of a call by this user."""
        return (("authorization", f"Bearer {self.token(user_id)}"),)

    async def pages(self, user_id: int, mode: int, *, limit: int = 100) -> list[feed_pb.GetFeedResponse]:
        """A user's whole feed, page by page to its end."""
        metadata = self.as_user(user_id)
        pages: list[feed_pb.GetFeedResponse] = []
        cursor = ""
        while not pages or cursor:
            request = feed_pb.GetFeedRequest(limit=limit, cursor=cursor, mode=feed_pb2.FeedMode.ValueType(mode))
            page = await self.feed.GetFeed(request, metadata=metadata, timeout=10)
            pages.append(page)
            cursor = page.next_cursor
            assert page.has_more == bool(cursor)
            assert len(pages) < MAX_PAGES, "the feed does not end"
        return pages

    async def latest(self, user_id: int, *, limit: int = 100) -> list[int]:
        """Ids of a user's LATEST feed, to its end. What a busy mesh refuses, or could not read, is asked for again."""
        clock = SystemClock()
        until = clock.monotonic() + ASKS_AGAIN_FOR_S
        while clock.monotonic() < until:
            try:
                return await self._latest(user_id, limit)
            except aio.AioRpcError as failure:
                if failure.code() not in BUSY:
                    raise
            except Incomplete:
                pass
            await asyncio.sleep(0.5)
        return await self._latest(user_id, limit)

    async def _latest(self, user_id: int, limit: int) -> list[int]:
        pages = await self.pages(user_id, feed_pb2.LATEST, limit=limit)
        for page in pages:
            if page.quality != feed_pb2.NORMAL:
                raise Incomplete([feed_pb2.DegradedReason.Name(reason) for reason in page.degraded_reasons])
        return [post.post_id for page in pages for post in page.posts]

    async def latest_of_all(self, user_ids: Sequence[int], *, at_once: int = 8) -> dict[int, list[int]]:
        """Whole LATEST feeds of many users."""
        gate = asyncio.Semaphore(at_once)

        async def one(user_id: int) -> tuple[int, list[int]]:
            async with gate:
                return user_id, await self.latest(user_id)

        return dict(await asyncio.gather(*map(one, user_ids)))

    async def settled(self, *, timeout_s: float = 60) -> None:
        """Wait until all that was acknowledged is published and every consumer has caught up."""
        from feedmesh_cli.mesh_status import read_page

        async def caught_up() -> bool:
            try:
                return (await read_page(self.mesh)).settled
            except CliError:  # the services are just coming back
                return False

        await eventually(caught_up, timeout_s=timeout_s)

"""People who post through the edge while parts of the mesh die, and what was promised to them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from grpc import StatusCode, aio

from feedmesh_cli.failures import CliError
from feedmesh_cli.loading import load
from feedmesh_cli.mesh_file import Mesh, load_mesh
from feedmesh_cli.mesh_status import inspect_mesh
from feedmesh_cli.tokens import token_for
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from foundation.timeline.redis import FEED, timeline_key
from tests.kit.eventually import eventually
from tests.kit.mesh import Client
from tests.kit.reference import ReferenceWorld

PEOPLE = 24
FOLLOWED = 8
WRITERS = 4
PAUSE_S = 0.05
SAMPLED = 4
UNKNOWN = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED, StatusCode.INTERNAL)
"""Nobody knows whether the post was written: the same request is sent again until it is known."""
HEALTHY_WITHIN_S = 120
COMPLETE_WITHIN_S = 120


@dataclass
class History:
    """What callers saw."""

    acknowledged: int = 0
    unknown: int = 0
    """Attempts without an answer that says what became of them."""
    longest_s: float = 0.0
    """The longest that one post took to be acknowledged, repetitions included."""
    reads: int = 0
    failed_reads: int = 0
    degraded_reads: int = 0
    strange: list[str] = field(default_factory=list)
    """Answers that must never be given."""
    delays_s: list[float] = field(default_factory=list)
    """From acknowledged to there, of every SAMPLED-th post in the timelines of those of its followers who read."""


class Crowd:
    """A small network under load. Half of its people read all the time, so their timelines are warm."""

    def __init__(self, mesh: Mesh, client: Client, ids: list[int], model: ReferenceWorld) -> None:
        self.mesh = mesh
        self.client = client
        self.ids = ids
        self.model = model
        self._sampled: asyncio.Queue[tuple[float, int, int]] = asyncio.Queue()

    @classmethod
    async def gathered(cls, mesh: Mesh) -> Crowd:
        """In *mesh*, under names that nobody has yet."""
        run = uuid.uuid4().hex[:8]
        names = [f"c{run}.{place}" for place in range(PEOPLE)]
        follows = np.array(
            [(one, (one + step) % PEOPLE) for one in range(PEOPLE) for step in range(1, FOLLOWED + 1)], dtype=np.int64
        )
        await load(mesh, names, follows, [])
        ids = [int((await token_for(mesh, name)).user_id) for name in names]
        model = ReferenceWorld()
        for follower, followee in follows.tolist():
            model.follows[ids[follower]].add(ids[followee])
        crowd = cls(mesh, Client(mesh), ids, model)
        await crowd.client.latest_of_all(ids[::2])
        return crowd

    async def change_follows(self) -> None:
        """Those who do not read all the time: one follow is ended, one ended and made again, one made and ended."""
        for place in range(1, PEOPLE, 2):
            one, ends, again, never = (self.ids[(place + step) % PEOPLE] for step in (0, 1, 2, FOLLOWED + 1))
            metadata = self.client.as_user(one)
            for whom, follows in ((ends, False), (again, False), (again, True), (never, True), (never, False)):
                if follows:
                    await self.client.graph.Follow(graph_pb.FollowRequest(user_id=whom), metadata=metadata, timeout=5)
                    self.model.follows[one].add(whom)
                else:
                    request = graph_pb.UnfollowRequest(user_id=whom)
                    await self.client.graph.Unfollow(request, metadata=metadata, timeout=5)
                    self.model.follows[one].discard(whom)

    async def follower_counts(self) -> dict[int, int]:
        """How many follow each, as they are told themselves."""
        counts: dict[int, int] = {}
        for user in self.ids:
            request = user_pb.GetUserRequest(user_id=user)
            answer = await self.client.users.GetUser(request, metadata=self.client.as_user(user), timeout=5)
            counts[user] = answer.user.follower_count
        return counts

    async def delete(self, posts: Sequence[int]) -> None:
        """By their authors."""
        for post in posts:
            metadata = self.client.as_user(self.model.author_of[post])
            await self.client.posts.DeletePost(post_pb.DeletePostRequest(post_id=post), metadata=metadata, timeout=5)
            self.model.deleted.add(post)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[History]:
        """People post and read until the block ends; then every post's fate becomes known."""
        history = History()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for writer in range(WRITERS):
                tasks.create_task(self._write(writer, history, stop))
            tasks.create_task(self._read(history, stop))
            tasks.create_task(self._time_deliveries(history, stop))
            try:
                yield history
            finally:
                stop.set()

    async def _write(self, writer: int, history: History, stop: asyncio.Event) -> None:
        mine = self.ids[writer::WRITERS]
        n = 0
        while not stop.is_set():
            author = mine[n % len(mine)]
            n += 1
            post_id = await self.write_one(author, history)
            if history.acknowledged % SAMPLED == 0:
                self._sampled.put_nowait((time.monotonic(), author, post_id))
            await asyncio.sleep(PAUSE_S)

    async def write_one(self, author: int, history: History) -> int:
        """The id of a new post, once it is acknowledged: from then on everyone is to see it."""
        request = post_pb.CreatePostRequest(caption="a post", request_id=str(uuid.uuid4()))
        began = time.monotonic()
        post_id = await self._certainly(author, request, history)
        history.longest_s = max(history.longest_s, time.monotonic() - began)
        history.acknowledged += 1
        self.model.post(author, post_id, request.caption)
        return post_id

    async def _certainly(self, author: int, request: post_pb.CreatePostRequest, history: History) -> int:
        async with asyncio.timeout(HEALTHY_WITHIN_S):
            while True:
                try:
                    metadata = self.client.as_user(author)
                    return (await self.client.posts.CreatePost(request, metadata=metadata, timeout=2)).post_id
                except aio.AioRpcError as failure:
                    if failure.code() not in UNKNOWN:
                        raise
                    history.unknown += 1
                    await asyncio.sleep(0.2)

    async def _read(self, history: History, stop: asyncio.Event) -> None:
        n = 0
        while not stop.is_set():
            viewer = self.ids[::2][n % (len(self.ids) // 2)]
            n += 1
            history.reads += 1
            try:
                request = feed_pb.GetFeedRequest(limit=20, mode=feed_pb2.FeedMode.ValueType(1 + n % 2))
                page = await self.client.feed.GetFeed(request, metadata=self.client.as_user(viewer), timeout=2)
                history.degraded_reads += page.quality == feed_pb2.DEGRADED
                shown = [post.post_id for post in page.posts]
                authors = {post.author.user_id for post in page.posts}
                if len(set(shown)) != len(shown):
                    history.strange.append(f"{viewer} was shown a post twice on one page")
                if not authors <= {viewer, *self.model.follows[viewer]}:
                    history.strange.append(f"{viewer} was shown somebody they do not follow")
            except aio.AioRpcError:
                history.failed_reads += 1
            await asyncio.sleep(PAUSE_S)

    async def _time_deliveries(self, history: History, stop: asyncio.Event) -> None:
        async with open_redis(MeshSettings(redis=self.mesh.redis)) as redis:
            while not stop.is_set() or not self._sampled.empty():
                try:
                    acknowledged, author, post_id = self._sampled.get_nowait()
                except asyncio.QueueEmpty:
                    await asyncio.sleep(0.01)
                    continue
                readers = [user for user in self.ids[::2] if author in self.model.follows[user]]
                give_up = time.monotonic() + HEALTHY_WITHIN_S
                while time.monotonic() < give_up:
                    places = await redis.try_execute([("LPOS", timeline_key(FEED, user), post_id) for user in readers])
                    if all(isinstance(place, int) for place in places):
                        history.delays_s.append(time.monotonic() - acknowledged)
                        break
                    if stop.is_set():
                        break  # a node lost its lists: whoever reads rebuilds them
                    await asyncio.sleep(0.01)

    async def healthy(self) -> float:
        """Wait until every part runs; how long that took."""
        began = time.monotonic()

        async def well() -> bool:
            mesh = load_mesh(self.mesh.directory)
            assert mesh is not None, "the mesh has given up"
            with suppress(CliError):
                return (await inspect_mesh(mesh)).healthy
            return False

        await eventually(well, timeout_s=HEALTHY_WITHIN_S, every_s=0.2)
        return time.monotonic() - began

    async def complete(self) -> float:
        """Wait until everyone's feed holds each acknowledged post exactly once and nothing else; how long it took."""
        began = time.monotonic()
        wrong: list[str] = []

        async def right() -> bool:
            try:
                feeds = await self.client.latest_of_all(self.ids)
            except (aio.AioRpcError, AssertionError):  # still degraded
                return False
            wrong[:] = [_difference(user, feeds[user], self.model.latest(user)) for user in self.ids]
            return not any(wrong)

        try:
            await eventually(right, timeout_s=COMPLETE_WITHIN_S, every_s=1.0)
        except AssertionError:
            raise AssertionError([text for text in wrong if text] or "feeds stay degraded") from None
        return time.monotonic() - began


def _difference(user: int, shown: list[int], expected: list[int]) -> str:
    if shown == expected:
        return ""
    missing, foreign = set(expected) - set(shown), set(shown) - set(expected)
    repeats = len(shown) - len(set(shown))
    return f"{user}: {len(shown)} shown, {len(missing)} missing, {len(foreign)} too many, {repeats} repeats"

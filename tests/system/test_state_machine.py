"""Random lives of a small network against the reference model: posts, edits, deletes, follows, blocks, mutes, pages,
lost caches and restarts, on the embedded mesh behind its edge."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Coroutine, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import grpc
import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from grpc import aio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feedmesh_cli.mesh_file import load_mesh
from foundation.redis.client import connect
from tests.kit.mesh import FEEDMESH, Client, running_mesh
from tests.kit.reference import ReferenceWorld

T = TypeVar("T")
PEOPLE = 5
people = st.integers(0, PEOPLE - 1)


class Network(RuleBasedStateMachine):
    """Rules are what users do; after each the consumers are given time and some feed is compared."""

    data: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)  # stubs look for it outside of coroutines
        self.model = ReferenceWorld()
        self.users: list[int] = []

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.connect()
        Network.life = getattr(Network, "life", 0) + 1
        for place in range(PEOPLE):
            request = user_pb.CreateUserRequest(username=f"p{Network.life}.{place}")
            answer = self.do(self.client.users.CreateUser(request, timeout=5))
            self.users.append(answer.user.user_id)

    def connect(self) -> None:
        mesh = load_mesh(self.data)
        assert mesh is not None

        async def made() -> Client:
            return Client(mesh)

        self.client = self.do(made())

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.do(self.client.close())
        asyncio.set_event_loop(None)
        self.loop.close()

    async def edge(self, verb: str, one: int, other: int) -> None:
        request = getattr(graph_pb, f"{verb}Request")(user_id=self.users[other])
        await getattr(self.client.graph, verb)(request, metadata=self.client.as_user(self.users[one]), timeout=5)

    @rule(author=people, caption=st.text("ab", max_size=8))
    def post(self, author: int, caption: str) -> None:
        user = self.users[author]
        request = post_pb.CreatePostRequest(caption=caption)
        answer = self.do(self.client.posts.CreatePost(request, metadata=self.client.as_user(user), timeout=5))
        self.model.post(user, answer.post_id, caption)
        newest = self.do(
            self.client.feed.GetFeed(
                feed_pb.GetFeedRequest(limit=1, mode=feed_pb2.LATEST), metadata=self.client.as_user(user), timeout=5
            )
        )
        assert [shown.post_id for shown in newest.posts] == [answer.post_id], "one's own post is there at once"

    @rule(one=people, other=people)
    def follow(self, one: int, other: int) -> None:
        a, b = self.users[one], self.users[other]
        try:
            self.do(self.edge("Follow", one, other))
        except aio.AioRpcError as refused:
            if a == b:
                assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
            elif (b, a) in self.model.blocks:
                assert refused.code() is grpc.StatusCode.NOT_FOUND
            else:
                assert (a, b) in self.model.blocks
                assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
        else:
            assert a != b and not self.model.blocked(a, b), "nobody follows across a block"
            self.model.follows[a].add(b)

    @rule(one=people, other=people)
    def unfollow(self, one: int, other: int) -> None:
        if one != other:
            self.do(self.edge("Unfollow", one, other))
            self.model.follows[self.users[one]].discard(self.users[other])

    @rule(one=people, other=people)
    def block(self, one: int, other: int) -> None:
        if one != other:
            self.do(self.edge("Block", one, other))
            self.model.block(self.users[one], self.users[other])
            # Strict: the next answer already hides both.
            self.compare(one, whole=False)
            self.compare(other, whole=False)

    @rule(one=people, other=people)
    def unblock(self, one: int, other: int) -> None:
        if one != other:
            self.do(self.edge("Unblock", one, other))
            self.model.blocks.discard((self.users[one], self.users[other]))

    @rule(one=people, other=people)
    def mute(self, one: int, other: int) -> None:
        if one != other:
            self.do(self.edge("Mute", one, other))
            self.model.mutes.add((self.users[one], self.users[other]))

    @rule(one=people, other=people)
    def unmute(self, one: int, other: int) -> None:
        if one != other:
            self.do(self.edge("Unmute", one, other))
            self.model.mutes.discard((self.users[one], self.users[other]))

    @precondition(lambda self: self.model.author_of)
    @rule(choice=st.randoms(use_true_random=False))
    def delete(self, choice: Any) -> None:
        post = choice.choice(sorted(self.model.author_of))
        author = self.model.author_of[post]
        request = post_pb.DeletePostRequest(post_id=post)
        self.do(self.client.posts.DeletePost(request, metadata=self.client.as_user(author), timeout=5))
        self.model.deleted.add(post)
        for place in range(PEOPLE):
            self.compare(place, whole=False)

    @precondition(lambda self: set(self.model.author_of) - self.model.deleted)
    @rule(choice=st.randoms(use_true_random=False), caption=st.text("cd", min_size=1, max_size=8))
    def update(self, choice: Any, caption: str) -> None:
        post = choice.choice(sorted(set(self.model.author_of) - self.model.deleted))
        author = self.model.author_of[post]
        request = post_pb.UpdatePostRequest(post_id=post, caption=caption)
        answer = self.do(self.client.posts.UpdatePost(request, metadata=self.client.as_user(author), timeout=5))
        assert answer.post.caption == caption
        self.model.captions[post] = caption

    @precondition(lambda self: self.model.author_of)
    @rule(reader=people, choice=st.randoms(use_true_random=False))
    def get(self, reader: int, choice: Any) -> None:
        post = choice.choice(sorted(self.model.author_of))
        user = self.users[reader]
        request = post_pb.GetPostRequest(post_id=post)
        try:
            answer = self.do(self.client.posts.GetPost(request, metadata=self.client.as_user(user), timeout=5))
        except aio.AioRpcError as refused:
            assert refused.code() is grpc.StatusCode.NOT_FOUND
            assert not self.model.may_see(user, post)
        else:
            assert self.model.may_see(user, post)
            assert answer.post.caption == self.model.captions[post]

    @rule(reader=people, limit=st.integers(1, 7))
    def scroll_ranked(self, reader: int, limit: int) -> None:
        """A ranked feed shows what LATEST shows, each once, and a retried cursor gives the same page."""
        self.do(self.client.settled())
        user = self.users[reader]
        metadata = self.client.as_user(user)
        shown: list[int] = []
        cursor = ""
        while True:
            request = feed_pb.GetFeedRequest(limit=limit, cursor=cursor)
            page = self.do(self.client.feed.GetFeed(request, metadata=metadata, timeout=5))
            if cursor:
                again = self.do(self.client.feed.GetFeed(request, metadata=metadata, timeout=5))
                assert [post.post_id for post in again.posts] == [post.post_id for post in page.posts]
            shown += [post.post_id for post in page.posts]
            cursor = page.next_cursor
            if not cursor:
                break
        assert sorted(shown, reverse=True) == self.model.latest(user)

    @precondition(lambda self: self.model.author_of)
    @rule(reader=people, choice=st.randoms(use_true_random=False))
    def mark_seen(self, reader: int, choice: Any) -> None:
        """Only an order may change: `scroll_ranked` still finds every post, and LATEST all of them in place."""
        posts = choice.sample(sorted(self.model.author_of), choice.randint(1, len(self.model.author_of)))
        request = feed_pb.MarkSeenRequest(post_ids=posts[:200])
        self.do(self.client.feed.MarkSeen(request, metadata=self.client.as_user(self.users[reader]), timeout=5))

    @rule(reader=people, choice=st.randoms(use_true_random=False), limit=st.integers(1, 7))
    def refresh(self, reader: int, choice: Any, limit: int) -> None:
        """The number of newer posts is exact, and the page begins the feed that LATEST goes on with."""
        self.do(self.client.settled())
        user = self.users[reader]
        since_id = choice.choice([0, *sorted(self.model.author_of)])
        request = feed_pb.RefreshFeedRequest(since_id=since_id, limit=limit, mode=feed_pb2.LATEST)
        answer = self.do(self.client.feed.RefreshFeed(request, metadata=self.client.as_user(user), timeout=5))
        feed = self.model.latest(user)
        assert answer.new_posts == sum(post > since_id for post in feed)
        assert [post.post_id for post in answer.posts] == feed[:limit]

    @precondition(lambda self: self.model.author_of)
    @rule(reader=people, choice=st.randoms(use_true_random=False))
    def watch(self, reader: int, choice: Any) -> None:
        """The first number of a watch is that of the model."""
        self.do(self.client.settled())
        user = self.users[reader]
        since_id = choice.choice([0, *sorted(self.model.author_of)])

        async def first() -> feed_pb.WatchFeedResponse:
            request = feed_pb.WatchFeedRequest(since_id=since_id)
            stream = self.client.feed.WatchFeed(request, metadata=self.client.as_user(user), timeout=5)
            async for told in stream:
                stream.cancel()
                return told
            raise AssertionError("a watch that says nothing")

        assert self.do(first()).new_posts == sum(post > since_id for post in self.model.latest(user))

    @precondition(lambda self: self.model.author_of)
    @rule(reader=people, choice=st.randoms(use_true_random=False))
    def leave_and_come_back(self, reader: int, choice: Any) -> None:
        """A saved position goes on below its anchor, whatever became of the anchor."""
        self.do(self.client.settled())
        user = self.users[reader]
        metadata = self.client.as_user(user)
        anchor = choice.choice(sorted(self.model.author_of))
        request = feed_pb.SaveFeedPositionRequest(anchor_id=anchor, mode=feed_pb2.LATEST)
        self.do(self.client.feed.SaveFeedPosition(request, metadata=metadata, timeout=5))
        found = self.do(
            self.client.feed.GetFeedPosition(feed_pb.GetFeedPositionRequest(), metadata=metadata, timeout=5)
        )
        assert found.position.anchor_id == anchor
        page = self.do(
            self.client.feed.GetFeed(
                feed_pb.GetFeedRequest(cursor=found.next_cursor, limit=100), metadata=metadata, timeout=5
            )
        )
        assert [post.post_id for post in page.posts] == [post for post in self.model.latest(user) if post < anchor]

    @rule(reader=people)
    def read(self, reader: int) -> None:
        self.do(self.client.settled())
        self.compare(reader, whole=True)

    @rule()
    def lose_the_cache(self) -> None:
        async def flush() -> None:
            host, port = self.client.mesh.redis.split(",")[0].split(":")
            redis = await connect([(host, int(port))], timeout_s=1.0)
            await redis.flush_all()
            await redis.close()

        self.do(flush())

    @rule()
    def restart(self) -> None:
        if getattr(self, "restarts", 0) >= 1:
            return
        self.restarts = 1
        self.do(self.client.close())
        for command in (["down"], ["up", "--detach", "--no-world"]):
            subprocess.run([*FEEDMESH, *command, "--data", str(self.data)], check=True, capture_output=True, timeout=60)
        self.connect()

    @invariant()
    def counts_are_exact(self) -> None:
        if not self.users:
            return
        user = self.users[0]
        self.do(self.client.settled())
        answer = self.do(
            self.client.users.GetUser(
                user_pb.GetUserRequest(user_id=user), metadata=self.client.as_user(user), timeout=5
            )
        )
        assert answer.user.follower_count == self.model.follower_count(user)
        assert answer.user.following_count == len(self.model.follows[user])

    def compare(self, reader: int, *, whole: bool) -> None:
        """The reader's LATEST feed: all of it, or, before the consumers are done, nothing that must not be there."""
        user = self.users[reader]
        feed = self.do(self.client.latest(user, limit=3))
        assert len(set(feed)) == len(feed)
        if whole:
            assert feed == self.model.latest(user)
        else:
            assert all(self.model.shows(user, post) for post in feed)


@pytest.fixture
def data() -> Iterator[Path]:
    with TemporaryDirectory() as directory, running_mesh(Path(directory) / "mesh"):
        yield Path(directory) / "mesh"


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.timeout(600)
def test_random_lives_agree_with_the_model(data: Path) -> None:
    Network.data = data
    run_state_machine_as_test(
        Network,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

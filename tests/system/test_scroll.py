"""A scroll to the end of a feed that is longer than its list, through the seam, while the caches move beneath it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as internal_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from feed_svc.model import OWN_POSTS
from feedmesh_cli.mesh_file import Mesh
from foundation.model.clock import SystemClock
from foundation.model.ids import MAX_ID
from foundation.redis.client import RedisCluster, connect
from foundation.rpc.channels import internal_channel
from foundation.timeline.gaps import RedisGaps
from foundation.timeline.port import CAPACITY
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines
from foundation.viewers import encode_viewer, viewer_key
from foundation.visibility import UserState
from tests.kit.eventually import eventually
from tests.kit.http import send
from tests.kit.mesh import Client, running_mesh
from tests.kit.reference import ReferenceWorld

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
FRIENDS = 12
POSTS_OF_BO = 720
"""More than `author_posts` holds: below its floor only the store has them."""
POSTS_OF_FRIENDS = 20


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("scroll") / "mesh") as running:
        yield running


@dataclass
class Circle:
    """A reader, the people they follow, and what the model says of them."""

    client: Client
    redis: RedisCluster
    model: ReferenceWorld
    reader: int
    friends: Sequence[int]

    async def page(
        self, cursor: str, *, limit: int, mode: feed_pb2.FeedMode = feed_pb2.LATEST
    ) -> feed_pb.GetFeedResponse:
        request = feed_pb.GetFeedRequest(cursor=cursor, limit=limit, mode=mode)
        answer = await self.client.feed.GetFeed(request, metadata=self.client.as_user(self.reader), timeout=5)
        assert answer.quality == feed_pb2.NORMAL, answer.degraded_reasons
        return answer

    async def write(self, authors: Sequence[int]) -> list[int]:
        mesh = self.client.mesh
        async with internal_channel(mesh.services["post_svc"], mesh.internal_key) as channel:
            stub = PostInternalServiceStub(channel.grpc)
            posts = [internal_pb.ImportedPost(author_id=author, caption="a post") for author in authors]
            answer = await channel.call(stub.ImportPosts, internal_pb.ImportPostsRequest(posts=posts), 60)
        for author, post in zip(authors, answer.post_ids, strict=True):
            self.model.post(author, post)
        return list(answer.post_ids)

    async def delete(self, post: int) -> None:
        metadata = self.client.as_user(self.model.author_of[post])
        await self.client.posts.DeletePost(post_pb.DeletePostRequest(post_id=post), metadata=metadata, timeout=5)
        self.model.deleted.add(post)


@pytest.fixture
async def circle(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Circle]:
    """Ana follows as many as the parameter says, and her empty list is warm: posts are pushed from the first."""
    client = Client(mesh)
    count = getattr(request, "param", FRIENDS)
    prefix = f"c{abs(hash(request.node.nodeid)) % 10**9}."
    async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        names = [f"{prefix}{place}" for place in range(count + 1)]
        made = await channel.call(stub.ImportUsers, graph_pb.ImportUsersRequest(usernames=names), 30)
        reader, *friends = made.user_ids
        follows = graph_pb.ImportFollowsRequest(
            follower_ids=b"".join(reader.to_bytes(8, "little") for _ in friends),
            followee_ids=b"".join(friend.to_bytes(8, "little") for friend in friends),
        )
        await channel.call(stub.ImportFollows, follows, 30)
    await client.settled()
    host, port = mesh.redis.split(",")[0].split(":")
    redis = await connect([(host, int(port))], timeout_s=1.0)
    model = ReferenceWorld()
    model.follows[reader].update(friends)
    assert await client.latest(reader) == []
    yield Circle(client, redis, model, reader, friends)
    await redis.close()
    await client.close()


async def a_long_feed(circle: Circle) -> list[int]:
    """More posts than a list holds, most of them by one author."""
    bo, *others = circle.friends
    authors = [bo if place % 3 else others[place % len(others)] for place in range(POSTS_OF_BO * 3 // 2)]
    authors[::40] = [circle.reader] * len(authors[::40])
    await circle.write(authors)
    await circle.client.settled()
    return circle.model.latest(circle.reader)


async def test_a_scroll_goes_through_the_seam_to_the_end_while_the_caches_move(circle: Circle) -> None:
    whole = await a_long_feed(circle)
    assert len(whole) > 2 * CAPACITY
    feeds, author_posts = RedisTimelines(circle.redis, FEED), RedisTimelines(circle.redis, AUTHOR_POSTS)
    bo = circle.friends[0]
    shown: list[int] = []
    cursor = ""
    pages = 0
    while True:
        page = await circle.page(cursor, limit=30)
        shown += [post.post_id for post in page.posts]
        cursor = page.next_cursor
        pages += 1
        if not cursor:
            break
        if pages == 5:
            await feeds.unlink([circle.reader])
        elif pages == 8:  # the floor rises over the position
            assert not {*await circle.write([bo] * 300)} & set(shown)
            await circle.client.settled()
        elif pages in (10, 20):
            await circle.delete(whole[(pages + 3) * 30])
        elif pages == 15:
            await author_posts.unlink([bo, circle.friends[3]])
        elif pages == 25:
            await feeds.unlink([circle.reader])
            await author_posts.unlink(circle.friends)
    assert shown == [post for post in whole if post not in circle.model.deleted]
    assert await circle.client.latest(circle.reader, limit=100) == circle.model.latest(circle.reader)


@pytest.mark.parametrize("limit", [1, 20, 100])
async def test_a_retried_page_below_the_floor_is_the_same(circle: Circle, limit: int) -> None:
    whole = await a_long_feed(circle)
    cursor, at = "", 0
    while at < CAPACITY + 40:
        page = await circle.page(cursor, limit=100)
        cursor, at = page.next_cursor, at + len(page.posts)
    for _ in range(2):
        again = await circle.page(cursor, limit=limit)
        assert [post.post_id for post in again.posts] == whole[at : at + limit]


async def test_a_ranked_feed_shows_the_same_posts_to_the_end(circle: Circle) -> None:
    whole = await a_long_feed(circle)
    pages = await circle.client.pages(circle.reader, feed_pb2.RANKED, limit=70)
    ranked = [post.post_id for page in pages for post in page.posts]
    assert sorted(ranked, reverse=True) == whole
    assert sum(not page.posts for page in pages) <= 1


async def unpushed(circle: Circle, pulled: Sequence[int]) -> None:
    """As if *pulled* had never been pushed: a viewer record that names them, and a list without their posts."""
    model = circle.model
    record = encode_viewer(
        version=MAX_ID,
        state=UserState.ACTIVE,
        follows=model.follows[circle.reader],
        blocks=(),
        mutes=(),
        pulled=pulled,
        supers=pulled[:2],
    )
    await circle.redis.execute([("SET", viewer_key(circle.reader), record)])
    feeds = RedisTimelines(circle.redis, FEED)
    await feeds.unlink([circle.reader])
    assert await feeds.begin(circle.reader, "t", 0)
    ids = [post for post in model.latest(circle.reader) if model.author_of[post] not in pulled]
    assert await feeds.commit(circle.reader, "t", ids, 1)


@pytest.mark.parametrize("circle", [75], indirect=True)
async def test_who_follows_60_pulled_authors_misses_none_of_them(circle: Circle) -> None:
    pulled = circle.friends[:60]
    authors = [friend for _ in range(10) for friend in circle.friends]
    await circle.write([*authors, *[circle.reader] * 3, *[pulled[7]] * 540, *[circle.friends[70]] * 3])
    await circle.client.settled()
    await unpushed(circle, pulled)
    whole = circle.model.latest(circle.reader)
    assert await circle.client.latest(circle.reader, limit=33) == whole
    pages = await circle.client.pages(circle.reader, feed_pb2.RANKED, limit=50)
    assert sorted((post.post_id for page in pages for post in page.posts), reverse=True) == whole
    # Evicted and rebuilt, some are in the list as well: folded.
    await RedisTimelines(circle.redis, FEED).unlink([circle.reader])
    assert await circle.client.latest(circle.reader, limit=100) == whole


async def test_the_stages_of_a_page_are_told_on_request(circle: Circle) -> None:
    await circle.write(circle.friends)
    await circle.client.settled()
    token, edge = circle.client.token(circle.reader), circle.client.mesh.edge_address
    asked = await send(edge, "GET", "/v1/feed?limit=5", token=token, headers={"x-feed-timing": "1"})
    stages = [entry.split(";")[0] for entry in asked.headers["server-timing"].split(", ")]
    assert stages == ["viewer", "rank", "compose", "slate", "freeze"]
    assert "server-timing" not in (await send(edge, "GET", "/v1/feed", token=token)).headers
    await unpushed(circle, circle.friends[:3])
    call = circle.client.feed.GetFeed(
        feed_pb.GetFeedRequest(),
        metadata=(*circle.client.as_user(circle.reader), ("x-feed-timing", "1")),
        timeout=5,
    )
    assert len((await call).posts) == len(circle.friends)
    told = dict(iter(await call.initial_metadata() or ()))
    assert "pulled;dur=" in str(told["server-timing"])


@pytest.mark.parametrize("circle", [30], indirect=True)
async def test_a_head_mixes_pulled_authors_in_by_their_share(circle: Circle) -> None:
    pulled = circle.friends[:10]
    await circle.write([friend for _ in range(3) for friend in circle.friends[10:]])
    await circle.write([friend for _ in range(3) for friend in pulled])
    await circle.client.settled()
    await unpushed(circle, pulled)
    page = await circle.page("", limit=40, mode=feed_pb2.RANKED)
    authors = [circle.model.author_of[post.post_id] for post in page.posts]
    for window in (authors[:20], authors[20:]):
        assert 2 <= sum(author in pulled for author in window) <= 3, "however new the posts of the others are"


async def test_own_posts_that_were_not_pushed_yet_are_all_there(circle: Circle) -> None:
    posts = await circle.write(circle.friends)
    mine = await circle.write([circle.reader] * (OWN_POSTS + 5))
    await circle.client.settled()
    feeds = RedisTimelines(circle.redis, FEED)
    await feeds.unlink([circle.reader])
    assert await feeds.begin(circle.reader, "t", 1)
    assert await feeds.commit(circle.reader, "t", posts, 1)
    assert await circle.client.latest(circle.reader) == sorted([*posts, *mine], reverse=True)


async def test_what_a_fan_out_under_pressure_left_to_readers_is_shown_and_written_back(circle: Circle) -> None:
    posts = await circle.write([friend for _ in range(5) for friend in circle.friends])
    await circle.client.settled()
    feeds = RedisTimelines(circle.redis, FEED)
    await feeds.unlink([circle.reader])
    assert await feeds.begin(circle.reader, "t", 1)
    assert await feeds.commit(circle.reader, "t", posts[::2], 1)
    assert await circle.client.latest(circle.reader) == posts[::2][::-1], "nothing tells of a gap yet"
    await RedisGaps(circle.redis, SystemClock()).record(posts)

    async def whole() -> bool:
        return await circle.client.latest(circle.reader) == posts[::-1]

    await eventually(whole, timeout_s=3)
    assert list((await feeds.read([circle.reader]))[circle.reader].ids) == posts[::-1]

"""What takes effect at once: the next answer after an acknowledged block, mute, unfollow or delete hides what it must,
also on the next page of an open session; and a follow shows the followee's posts within a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from feedmesh.post.v1.post_pb2 import Post

from feedmesh_cli.mesh_file import Mesh
from foundation.cards import card_key, decode_card
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from foundation.viewers import decode_viewer, viewer_key
from foundation.visibility import PostState
from tests.kit.eventually import eventually
from tests.kit.mesh import Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
POSTS = 6


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("strict") / "mesh") as running:
        yield running


class Pair:
    """Ana follows bo, who has posted."""

    def __init__(self, client: Client, ana: int, bo: int) -> None:
        self.client = client
        self.ana = ana
        self.bo = bo
        self.posts: list[int] = []

    async def edge(self, verb: str) -> None:
        request = getattr(graph_pb, f"{verb}Request")(user_id=self.bo)
        await getattr(self.client.graph, verb)(request, metadata=self.client.as_user(self.ana), timeout=5)

    async def page(self, cursor: str = "") -> feed_pb.GetFeedResponse:
        request = feed_pb.GetFeedRequest(limit=2, cursor=cursor)
        return await self.client.feed.GetFeed(request, metadata=self.client.as_user(self.ana), timeout=5)


@pytest.fixture
async def pair(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    client = Client(mesh)
    ids = []
    for name in ("ana", "bo"):
        username = f"{name}{abs(hash(request.node.nodeid)) % 10**9}"
        answer = await client.users.CreateUser(user_pb.CreateUserRequest(username=username), timeout=5)
        ids.append(answer.user.user_id)
    made = Pair(client, *ids)
    assert await client.latest(made.ana) == []
    for place in range(POSTS):
        created = await client.posts.CreatePost(
            post_pb.CreatePostRequest(caption=str(place)), metadata=client.as_user(made.bo), timeout=5
        )
        made.posts.append(created.post_id)
    await made.edge("Follow")
    yield made
    await client.close()


async def test_a_follow_shows_recent_posts_within_a_second(pair: Pair) -> None:
    async def all_there() -> bool:
        return await pair.client.latest(pair.ana) == pair.posts[::-1]

    await eventually(all_there, timeout_s=1.0)


async def test_an_own_post_is_there_at_once_on_any_device(mesh: Mesh, pair: Pair) -> None:
    """Before any consumer has pushed it: the answer to CreatePost is all that the next read waits for."""
    await pair.client.settled()
    mine = []
    for place in range(5):
        request = post_pb.CreatePostRequest(caption=str(place))
        created = await pair.client.posts.CreatePost(request, metadata=pair.client.as_user(pair.ana), timeout=5)
        mine.append(created.post_id)
        phone = Client(mesh)
        metadata = phone.as_user(pair.ana)
        latest = await phone.feed.GetFeed(feed_pb.GetFeedRequest(mode=feed_pb2.LATEST), metadata=metadata, timeout=5)
        ranked = await phone.feed.GetFeed(feed_pb.GetFeedRequest(limit=50), metadata=metadata, timeout=5)
        news = await phone.feed.RefreshFeed(
            feed_pb.RefreshFeedRequest(since_id=pair.posts[-1], count_only=True), metadata=metadata, timeout=5
        )
        await phone.close()
        assert [post.post_id for post in latest.posts] == [*mine[::-1], *pair.posts[::-1]]
        assert created.post_id in {post.post_id for post in ranked.posts}
        assert news.new_posts == len(mine)


@pytest.mark.parametrize("verb", ["Block", "Mute", "Unfollow"])
async def test_the_next_page_of_an_open_session_hides_the_author(pair: Pair, verb: str) -> None:
    await pair.client.settled()
    first = await pair.page()
    assert len(first.posts) == 2
    assert first.quality == feed_pb2.NORMAL
    await pair.edge(verb)
    assert [post.post_id for post in (await pair.page(first.next_cursor)).posts] == []
    assert await pair.client.latest(pair.ana) == []


async def test_a_deleted_post_is_in_no_later_page(pair: Pair) -> None:
    await pair.client.settled()
    first = await pair.page()
    shown = {post.post_id for post in first.posts}
    victim = next(post for post in pair.posts if post not in shown)
    request = post_pb.DeletePostRequest(post_id=victim)
    await pair.client.posts.DeletePost(request, metadata=pair.client.as_user(pair.bo), timeout=5)
    rest: list[int] = []
    cursor = first.next_cursor
    while cursor:
        page = await pair.page(cursor)
        rest += [post.post_id for post in page.posts]
        cursor = page.next_cursor
    assert shown | set(rest) == set(pair.posts) - {victim}
    assert len(rest) == len(set(rest)) == POSTS - 3


async def test_an_update_shows_at_once(pair: Pair) -> None:
    await pair.client.settled()
    await pair.page()
    request = post_pb.UpdatePostRequest(post_id=pair.posts[0], caption="changed")
    await pair.client.posts.UpdatePost(request, metadata=pair.client.as_user(pair.bo), timeout=5)
    pages = await pair.client.pages(pair.ana, feed_pb2.LATEST)
    captions = {post.post_id: post.caption for page in pages for post in page.posts}
    assert captions[pair.posts[0]] == "changed"


async def test_what_a_process_has_kept_is_replaced_by_the_next_answer(pair: Pair) -> None:
    """Cards and author records are kept where feeds are made; each change is acknowledged once nobody serves them."""
    await pair.client.settled()

    async def shown() -> dict[int, Post]:
        pages = await pair.client.pages(pair.ana, feed_pb2.LATEST)
        return {post.post_id: post for page in pages for post in page.posts}

    for _ in range(3):
        assert (await shown()).keys() == {*pair.posts}
    bo = pair.client.as_user(pair.bo)
    for round_ in range(3):
        avatar = f"https://pictures.example/{round_}"
        await pair.client.users.UpdateUser(
            user_pb.UpdateUserRequest(user_id=pair.bo, avatar_url=avatar), metadata=bo, timeout=5
        )
        assert {post.author.avatar_url for post in (await shown()).values()} == {avatar}
        for post_id in pair.posts:
            caption = f"{post_id} {round_}"
            await pair.client.posts.UpdatePost(
                post_pb.UpdatePostRequest(post_id=post_id, caption=caption), metadata=bo, timeout=5
            )
            assert (await shown())[post_id].caption == caption


async def test_a_tombstone_that_a_failover_lost_still_hides(mesh: Mesh, pair: Pair) -> None:
    await pair.client.settled()
    await pair.page()
    victim = pair.posts[-1]

    async def hidden() -> bool:
        return victim not in await pair.client.latest(pair.ana)

    async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
        (card,) = await redis.execute([("GET", card_key(victim))])
        request = post_pb.DeletePostRequest(post_id=victim)
        await pair.client.posts.DeletePost(request, metadata=pair.client.as_user(pair.bo), timeout=5)
        # What a replica without the newest write would have: the card as it was.
        await redis.execute([("SET", card_key(victim), card)])
        await eventually(hidden, timeout_s=2)
        assert (await redis.execute([("GET", card_key(victim))])) == [card], "it was hidden without the tombstone"


async def test_a_tombstone_is_there_when_a_delete_is_acknowledged(mesh: Mesh, pair: Pair) -> None:
    await pair.client.settled()
    await pair.page()
    victim = pair.posts[-1]
    request = post_pb.DeletePostRequest(post_id=victim)
    await pair.client.posts.DeletePost(request, metadata=pair.client.as_user(pair.bo), timeout=5)
    async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
        (record,) = await redis.execute([("GET", card_key(victim))])
    card = decode_card(record)
    assert card is not None
    assert card.state is PostState.DELETED


async def test_a_block_is_in_both_records_when_it_is_acknowledged(mesh: Mesh, pair: Pair) -> None:
    await pair.client.settled()
    await pair.page()
    await pair.edge("Block")
    async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
        for user, other in ((pair.ana, pair.bo), (pair.bo, pair.ana)):
            (record,) = await redis.execute([("GET", viewer_key(user))])
            viewer = decode_viewer(record)
            assert viewer is not None
            assert viewer.blocks == {other}


async def test_a_block_that_a_failover_lost_still_hides(mesh: Mesh, pair: Pair) -> None:
    await pair.client.settled()
    first = await pair.page()
    assert len(first.posts) == 2
    async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
        (record,) = await redis.execute([("GET", viewer_key(pair.ana))])
        request = graph_pb.BlockRequest(user_id=pair.ana)
        await pair.client.graph.Block(request, metadata=pair.client.as_user(pair.bo), timeout=5)

        async def nothing_of_bo() -> bool:
            await redis.execute([("SET", viewer_key(pair.ana), record)])
            return await pair.client.latest(pair.ana) == []

        await eventually(nothing_of_bo, timeout_s=2)
        await redis.execute([("SET", viewer_key(pair.ana), record)])
        assert list((await pair.page(first.next_cursor)).posts) == [], "nor in the head that was open"

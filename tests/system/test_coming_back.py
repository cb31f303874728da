"""What a returning user expects of a feed: what is new, what they have seen already, and where they were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from feed_svc.adapters.presence_redis import last_active_key
from feedmesh_cli.mesh_file import Mesh
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from tests.kit.eventually import eventually
from tests.kit.http import send
from tests.kit.mesh import Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("coming-back") / "mesh") as running:
        yield running


class People:
    """Ana, bo and cy; ana follows both."""

    def __init__(self, client: Client, ids: list[int]) -> None:
        self.client = client
        self.ana, self.bo, self.cy = ids

    async def post(self, author: int, count: int = 1) -> list[int]:
        """New posts, oldest first."""
        metadata = self.client.as_user(author)
        request = post_pb.CreatePostRequest(caption="hello")
        return [
            (await self.client.posts.CreatePost(request, metadata=metadata, timeout=5)).post_id for _ in range(count)
        ]

    async def edge(self, verb: str, one: int, other: int) -> None:
        request = getattr(graph_pb, f"{verb}Request")(user_id=other)
        await getattr(self.client.graph, verb)(request, metadata=self.client.as_user(one), timeout=5)

    async def feed(self, **asked: object) -> feed_pb.GetFeedResponse:
        request = feed_pb.GetFeedRequest(**asked)  # type: ignore[arg-type]  # fields by name
        return await self.client.feed.GetFeed(request, metadata=self.client.as_user(self.ana), timeout=5)

    async def refresh(self, since_id: int, **asked: object) -> feed_pb.RefreshFeedResponse:
        await self.client.settled()
        request = feed_pb.RefreshFeedRequest(since_id=since_id, **asked)  # type: ignore[arg-type]  # as above
        return await self.client.feed.RefreshFeed(request, metadata=self.client.as_user(self.ana), timeout=5)

    async def save(self, anchor_id: int, **asked: object) -> feed_pb.SaveFeedPositionResponse:
        request = feed_pb.SaveFeedPositionRequest(anchor_id=anchor_id, **asked)  # type: ignore[arg-type]  # as above
        return await self.client.feed.SaveFeedPosition(request, metadata=self.client.as_user(self.ana), timeout=5)

    async def position(self, user: int = 0) -> feed_pb.GetFeedPositionResponse:
        metadata = self.client.as_user(user or self.ana)
        return await self.client.feed.GetFeedPosition(feed_pb.GetFeedPositionRequest(), metadata=metadata, timeout=5)

    async def mark(self, *post_ids: int) -> None:
        request = feed_pb.MarkSeenRequest(post_ids=post_ids)
        await self.client.feed.MarkSeen(request, metadata=self.client.as_user(self.ana), timeout=5)


def shown(page: feed_pb.GetFeedResponse | feed_pb.RefreshFeedResponse) -> list[int]:
    return [post.post_id for post in page.posts]


@pytest.fixture
async def people(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[People]:
    client = Client(mesh)
    ids = []
    for name in ("ana", "bo", "cy"):
        username = f"{name}{abs(hash(request.node.nodeid)) % 10**9}"
        answer = await client.users.CreateUser(user_pb.CreateUserRequest(username=username), timeout=5)
        ids.append(answer.user.user_id)
    made = People(client, ids)
    await made.edge("Follow", made.ana, made.bo)
    await made.edge("Follow", made.ana, made.cy)
    await client.settled()
    yield made
    await client.close()


async def test_a_refresh_counts_what_is_newer_and_brings_it(people: People) -> None:
    nothing = await people.feed()
    assert nothing.newest_id == 0
    old = await people.post(people.bo, 3)
    await people.client.settled()
    page = await people.feed(limit=2)
    assert page.newest_id == old[-1]
    later = await people.feed(cursor=page.next_cursor)
    assert later.newest_id == 0, "only first pages know it"
    still = await people.refresh(page.newest_id)
    assert (still.new_posts, still.newest_id) == (0, old[-1])
    new = [*await people.post(people.cy, 2), *await people.post(people.ana)]
    refreshed = await people.refresh(page.newest_id, limit=50)
    assert refreshed.new_posts == 3, "one's own counts"
    assert refreshed.newest_id == new[-1]
    assert set(shown(refreshed)) == {*old, *new}
    assert refreshed.feed_session_id not in ("", page.feed_session_id)
    assert refreshed.quality == feed_pb2.NORMAL
    assert (await people.refresh(0)).new_posts == 6
    latest = await people.refresh(0, mode=feed_pb2.LATEST, limit=2)
    assert shown(latest) == new[::-1][:2]
    assert latest.has_more
    assert latest.feed_session_id == ""
    rest = await people.feed(cursor=latest.next_cursor)
    assert shown(rest) == [*new[::-1][2:], *old[::-1]]


async def test_who_opens_a_feed_is_noted(mesh: Mesh, people: People) -> None:
    async with open_redis(MeshSettings(redis=mesh.redis)) as redis:

        async def noted() -> bool:
            (when_ms,) = await redis.execute([("GET", last_active_key(people.ana))])
            return when_ms is not None

        assert not await noted()
        await people.feed()
        await eventually(noted)


async def test_counting_alone_makes_no_page_and_stops_at_a_hundred(people: People) -> None:
    posts = await people.post(people.bo, 103)
    counted = await people.refresh(0, count_only=True)
    assert counted.new_posts == 100
    assert (shown(counted), counted.next_cursor, counted.feed_session_id) == ([], "", "")
    assert counted.newest_id == posts[-1]
    assert (await people.refresh(posts[-100], count_only=True)).new_posts == 99
    assert (await people.refresh(0, mode=feed_pb2.LATEST, limit=2)).new_posts == 100, "however short the page"


@pytest.mark.parametrize("verb", ["Mute", "Block", "Unfollow"])
async def test_what_is_hidden_is_not_counted(people: People, verb: str) -> None:
    (first,) = await people.post(people.bo)
    await people.post(people.cy, 2)
    (gone,) = await people.post(people.bo)
    request = post_pb.DeletePostRequest(post_id=gone)
    await people.client.posts.DeletePost(request, metadata=people.client.as_user(people.bo), timeout=5)
    await people.edge(verb, people.ana, people.cy)
    assert (await people.refresh(0, count_only=True)).new_posts == 1
    assert shown(await people.refresh(0)) == [first]


async def test_seen_posts_come_last_in_a_ranked_head_and_none_is_lost(people: People) -> None:
    posts = [*await people.post(people.bo, 3), *await people.post(people.cy, 3)]
    await people.client.settled()
    first = await people.feed()
    assert len(shown(first)) == 6
    on_screen = shown(first)[:3]
    await people.mark(*on_screen)
    again = shown(await people.feed())
    assert sorted(again) == sorted(posts), "demoted, not dropped"
    assert set(again[3:]) == set(on_screen)
    assert set(shown(await people.refresh(0))[3:]) == set(on_screen)
    latest = await people.feed(mode=feed_pb2.LATEST)
    assert shown(latest) == sorted(posts, reverse=True), "LATEST ignores it"
    (new,) = await people.post(people.bo)
    await people.mark(*posts)
    await people.client.settled()
    assert shown(await people.feed())[0] == new, "what is new is unseen"


async def test_an_open_head_stays_as_it_is_while_posts_are_marked(people: People) -> None:
    posts = [*await people.post(people.bo, 3), *await people.post(people.cy, 3)]
    await people.client.settled()
    page = await people.feed(limit=2)
    order = shown(page)
    while page.next_cursor:
        await people.mark(*shown(page))
        page = await people.feed(cursor=page.next_cursor, limit=2)
        order += shown(page)
    assert sorted(order) == sorted(posts)


async def test_reading_marks_nothing(people: People) -> None:
    await people.post(people.bo, 3)
    await people.post(people.cy, 3)
    await people.client.settled()
    first = shown(await people.feed())
    assert shown(await people.feed()) == first


@pytest.mark.parametrize("mode", [feed_pb2.LATEST, feed_pb2.RANKED])
async def test_another_device_goes_on_after_the_last_post_on_the_screen(
    mesh: Mesh, people: People, mode: feed_pb2.FeedMode.ValueType
) -> None:
    await people.post(people.bo, 4)
    await people.post(people.cy, 4)
    await people.client.settled()
    whole = [shown(page)[0] for page in await people.client.pages(people.ana, mode, limit=1) if page.posts]
    page = await people.feed(limit=3, mode=mode)
    if mode == feed_pb2.RANKED:
        # The anchor is looked for in the newest head that holds it.
        whole = [*shown(page), *(post for post in whole if post not in shown(page))]
        following = await people.feed(cursor=page.next_cursor, limit=20)
    saved = await people.save(shown(page)[-1], mode=mode)
    assert saved.position.anchor_id == shown(page)[-1]
    await people.post(people.bo)  # what comes meanwhile shows at the next refresh
    phone = Client(mesh)
    try:
        metadata = phone.as_user(people.ana)
        found = await phone.feed.GetFeedPosition(feed_pb.GetFeedPositionRequest(), metadata=metadata, timeout=5)
        assert found.position == saved.position
        request = feed_pb.GetFeedRequest(cursor=found.next_cursor, limit=20)
        rest = await phone.feed.GetFeed(request, metadata=metadata, timeout=5)
    finally:
        await phone.close()
    assert shown(rest) == (shown(following) if mode == feed_pb2.RANKED else whole[3:])


async def test_a_position_is_the_callers_own_and_the_latest(people: People) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await people.position()
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    (one, other) = await people.post(people.bo, 2)
    saved = await people.save(other)
    assert saved.position.mode == feed_pb2.RANKED
    late = await people.save(one, saved_at=Timestamp(seconds=saved.position.saved_at.seconds - 60))
    assert late.position == saved.position, "a device that was offline for a minute"
    assert (await people.position()).position == saved.position
    with pytest.raises(aio.AioRpcError) as refused:
        await people.position(people.bo)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_position_outlives_its_session_and_ends_with_the_feed(people: People) -> None:
    posts = await people.post(people.bo, 4)
    await people.client.settled()
    await people.save(posts[2])
    found = await people.position()
    assert shown(await people.feed(cursor=found.next_cursor)) == posts[:2][::-1], "no session: newest first below it"
    await people.save(posts[0] - (8 * 86_400_000 << 22))
    assert (await people.position()).next_cursor == ""


async def test_they_are_there_by_rest_too(mesh: Mesh, people: People) -> None:
    token = people.client.token(people.ana)
    (post,) = await people.post(people.bo)
    await people.client.settled()
    body = json.dumps({"since_id": "0", "limit": 5})
    refreshed = await send(mesh.edge_address, "POST", "/v1/feed/refresh", body=body, token=token)
    assert refreshed.status == 200
    assert (refreshed.json["new_posts"], refreshed.json["newest_id"]) == (1, str(post))
    assert refreshed.headers["x-feed-quality"] == "normal"
    body = json.dumps({"post_ids": [str(post)]})
    marked = await send(mesh.edge_address, "POST", "/v1/feed/seen", body=body, token=token)
    assert (marked.status, marked.json) == (200, {})
    for wrong in ({}, {"post_ids": []}, {"post_ids": ["0"]}, {"post_ids": [str(n) for n in range(1, 202)]}):
        refused = await send(mesh.edge_address, "POST", "/v1/feed/seen", body=json.dumps(wrong), token=token)
        assert (refused.status, refused.reason) == (400, "FIELD_INVALID")
    nowhere = await send(mesh.edge_address, "GET", "/v1/feed/position", token=token)
    assert (nowhere.status, nowhere.reason) == (404, "POSITION_NOT_FOUND")
    body = json.dumps({"anchor_id": str(post), "mode": "LATEST"})
    saved = await send(mesh.edge_address, "PUT", "/v1/feed/position", body=body, token=token)
    assert saved.status == 200
    found = await send(mesh.edge_address, "GET", "/v1/feed/position", token=token)
    assert found.json["position"] == saved.json["position"]
    assert found.json["position"]["anchor_id"] == str(post)
    assert found.json["next_cursor"]


async def test_bad_refreshes_are_refused(people: People) -> None:
    for wrong in ({"since_id": -1}, {"since_id": 0, "limit": -1}, {"since_id": 0, "mode": 7}):
        with pytest.raises(aio.AioRpcError) as refused:
            await people.refresh(**wrong)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

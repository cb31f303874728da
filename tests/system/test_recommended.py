"""Posts of friends of friends come into a RANKED head, and go at once when they must."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from foundation.model.clock import SystemClock
from foundation.recommendations import encode_recommendations, recommendations_key
from foundation.redis.client import connect
from tests.kit.eventually import eventually
from tests.kit.mesh import Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@dataclass(frozen=True)
class Friends:
    """Ana follows Bo, who follows Cy; each of the two wrote."""

    client: Client
    ana: int
    cy: int
    of_bo: Sequence[int]
    of_cy: Sequence[int]

    async def heads(self, *, limit: int = 20) -> list[int]:
        """Ana's RANKED feed, to its end."""
        pages = await self.client.pages(self.ana, feed_pb2.RANKED, limit=limit)
        assert all(page.quality == feed_pb2.NORMAL for page in pages)
        return [post.post_id for page in pages for post in page.posts]

    async def shown(self) -> list[int]:
        return sorted(await self.heads())

    async def explained(self, post_id: int) -> feed_pb.ExplainFeedItemResponse:
        request = feed_pb.ExplainFeedItemRequest(post_id=post_id)
        return await self.client.feed.ExplainFeedItem(request, metadata=self.client.as_user(self.ana), timeout=5)


@asynccontextmanager
async def friends(data: Path, *, recommendations: bool) -> AsyncIterator[Friends]:
    with running_mesh(data, recommendations=recommendations) as mesh:
        client = Client(mesh)
        ana, bo, cy = [
            (await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)).user.user_id
            for name in ("ana", "bo", "cy")
        ]
        for follower, followee in ((ana, bo), (bo, cy)):
            request = graph_pb.FollowRequest(user_id=followee)
            await client.graph.Follow(request, metadata=client.as_user(follower), timeout=5)
        draft = post_pb.CreatePostRequest(caption="hello")
        of_bo, of_cy = [
            [
                (await client.posts.CreatePost(draft, metadata=client.as_user(author), timeout=5)).post_id
                for _ in range(count)
            ]
            for author, count in ((bo, 3), (cy, 2))
        ]
        await client.settled()
        yield Friends(client, ana, cy, of_bo, of_cy)
        await client.close()


async def test_a_friend_of_a_friend_is_recommended_until_hidden_or_followed(tmp_path: Path) -> None:
    async with friends(tmp_path / "mesh", recommendations=True) as world:
        client, of_bo, everything = world.client, sorted(world.of_bo), sorted([*world.of_bo, *world.of_cy])
        as_ana = client.as_user(world.ana)

        async def recommended() -> bool:
            return await world.shown() == everything

        await eventually(recommended, timeout_s=10)
        assert await client.latest(world.ana) == of_bo[::-1]
        told = await world.explained(world.of_cy[0])
        assert (told.source, told.place, told.visible) == (feed_pb2.RECOMMENDED, feed_pb2.HEAD, True)
        assert told.decision == "shown: recommended: popular among the people whom those you follow follow"

        # What is recommended stays where the session has it, page by page, and is checked on each.
        assert sorted(await world.heads(limit=1)) == everything
        first = await client.feed.GetFeed(feed_pb.GetFeedRequest(limit=1), metadata=as_ana, timeout=5)
        await client.graph.Mute(graph_pb.MuteRequest(user_id=world.cy), metadata=as_ana, timeout=5)
        rest = feed_pb.GetFeedRequest(cursor=first.next_cursor)
        later = await client.feed.GetFeed(rest, metadata=as_ana, timeout=5)
        assert {post.post_id for post in later.posts} == {*of_bo} - {post.post_id for post in first.posts}

        assert await world.shown() == of_bo
        await client.graph.Unmute(graph_pb.UnmuteRequest(user_id=world.cy), metadata=as_ana, timeout=5)
        assert await world.shown() == everything
        await client.graph.Block(graph_pb.BlockRequest(user_id=world.cy), metadata=as_ana, timeout=5)
        assert await world.shown() == of_bo
        await client.graph.Unblock(graph_pb.UnblockRequest(user_id=world.cy), metadata=as_ana, timeout=5)
        # The fence hears from the log a moment later that the block is gone: until then it hides too much.
        await eventually(recommended, timeout_s=10)
        gone, stays = world.of_cy
        request = post_pb.DeletePostRequest(post_id=gone)
        await client.posts.DeletePost(request, metadata=client.as_user(world.cy), timeout=5)
        assert await world.shown() == sorted([*of_bo, stays])

        # The recommendations that were made still name Cy's post.
        await client.graph.Follow(graph_pb.FollowRequest(user_id=world.cy), metadata=as_ana, timeout=5)
        assert (await world.explained(stays)).source != feed_pb2.RECOMMENDED
        await client.settled()
        assert await world.shown() == sorted([*of_bo, stays])
        told = await world.explained(stays)
        assert (told.source, told.decision) == (feed_pb2.PUSHED, "shown: you follow the author")
        assert await client.latest(world.ana) == sorted([*of_bo, stays], reverse=True)


async def test_where_they_are_off_nothing_is_recommended_whatever_was_made_before(tmp_path: Path) -> None:
    async with friends(tmp_path / "mesh", recommendations=False) as world:
        host, port = world.client.mesh.redis.split(":")
        redis = await connect([(host, int(port))], timeout_s=1.0)
        key = recommendations_key(world.ana)
        assert await world.shown() == sorted(world.of_bo)
        assert await redis.execute([("EXISTS", key)]) == [0]
        record = encode_recommendations(world.of_cy, SystemClock().now_ms())
        await redis.execute([("SET", key, record)])
        assert await world.shown() == sorted(world.of_bo)
        assert (await world.explained(world.of_cy[0])).place == feed_pb2.NOT_IN_FEED
        await redis.close()

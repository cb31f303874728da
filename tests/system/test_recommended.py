"""Posts of friends of friends come into a RANKED head, and go at once when they must."""

from __future__ import annotations

from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from tests.kit.eventually import eventually
from tests.kit.mesh import Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def test_a_friend_of_a_friend_is_recommended_until_hidden(tmp_path: Path) -> None:
    with running_mesh(tmp_path / "mesh", recommendations=True) as mesh:
        client = Client(mesh)
        ana, bo, cy = [
            (await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)).user.user_id
            for name in ("ana", "bo", "cy")
        ]
        as_ana, as_cy = client.as_user(ana), client.as_user(cy)
        await client.graph.Follow(graph_pb.FollowRequest(user_id=bo), metadata=as_ana, timeout=5)
        await client.graph.Follow(graph_pb.FollowRequest(user_id=cy), metadata=client.as_user(bo), timeout=5)
        post = post_pb.CreatePostRequest(caption="hello")
        of_bo = (await client.posts.CreatePost(post, metadata=client.as_user(bo), timeout=5)).post_id
        of_cy = (await client.posts.CreatePost(post, metadata=as_cy, timeout=5)).post_id
        await client.settled()

        async def head() -> list[int]:
            page = await client.feed.GetFeed(feed_pb.GetFeedRequest(), metadata=as_ana, timeout=5)
            assert page.quality == feed_pb2.NORMAL
            return [post.post_id for post in page.posts]

        async def recommended() -> bool:
            return sorted(await head()) == [of_bo, of_cy]

        await eventually(recommended, timeout_s=10)
        assert await client.latest(ana) == [of_bo]
        explain = feed_pb.ExplainFeedItemRequest(post_id=of_cy)
        told = await client.feed.ExplainFeedItem(explain, metadata=as_ana, timeout=5)
        assert (told.source, told.place, told.visible) == (feed_pb2.RECOMMENDED, feed_pb2.HEAD, True)

        await client.graph.Mute(graph_pb.MuteRequest(user_id=cy), metadata=as_ana, timeout=5)
        assert await head() == [of_bo]
        await client.graph.Unmute(graph_pb.UnmuteRequest(user_id=cy), metadata=as_ana, timeout=5)
        assert sorted(await head()) == [of_bo, of_cy]
        await client.graph.Block(graph_pb.BlockRequest(user_id=cy), metadata=as_ana, timeout=5)
        assert await head() == [of_bo]
        await client.graph.Unblock(graph_pb.UnblockRequest(user_id=cy), metadata=as_ana, timeout=5)
        assert sorted(await head()) == [of_bo, of_cy]
        await client.posts.DeletePost(post_pb.DeletePostRequest(post_id=of_cy), metadata=as_cy, timeout=5)
        assert await head() == [of_bo]
        await client.close()

"""A feed that is less than perfect says so and why; one that is perfect says that."""

from __future__ import annotations

from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from tests.kit.http import send
from tests.kit.mesh import Client, running_mesh
from tests.kit.models import constant_model

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.mark.parametrize(
    ("value", "quality"), [(float("nan"), feed_pb2.DEGRADED), (float("inf"), feed_pb2.DEGRADED), (1.0, feed_pb2.NORMAL)]
)
async def test_a_model_that_fails_gives_the_newest_first_and_says_so(
    value: float, quality: int, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(constant_model(value))
    with running_mesh(tmp_path / "mesh", "--model", str(model)) as mesh:
        client = Client(mesh)
        answer = await client.users.CreateUser(user_pb.CreateUserRequest(username="ana"), timeout=5)
        ana = answer.user.user_id
        metadata = client.as_user(ana)
        posts = [
            (await client.posts.CreatePost(post_pb.CreatePostRequest(caption=str(place)), metadata=metadata)).post_id
            for place in range(5)
        ]
        page = await client.feed.GetFeed(feed_pb.GetFeedRequest(), metadata=metadata, timeout=5)
        assert page.quality == quality
        assert list(page.degraded_reasons) == ([feed_pb2.RANK_FALLBACK] if quality == feed_pb2.DEGRADED else [])
        assert [post.post_id for post in page.posts] == posts[2:][::-1] + posts[:2][::-1], "newest first, 3 per author"
        rest = await send(mesh.edge_address, "GET", "/v1/feed", token=client.token(ana))
        assert rest.headers["x-feed-quality"] == ("degraded" if quality == feed_pb2.DEGRADED else "normal")
        # Later pages rank nothing, so they skip nothing.
        first = await client.feed.GetFeed(feed_pb.GetFeedRequest(limit=2), metadata=metadata, timeout=5)
        later = await client.feed.GetFeed(
            feed_pb.GetFeedRequest(cursor=first.next_cursor), metadata=metadata, timeout=5
        )
        assert later.quality == feed_pb2.NORMAL
        await client.close()

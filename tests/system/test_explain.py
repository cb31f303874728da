"""Why a post is where it is, by gRPC, REST and on the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import grpc
import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from grpc import aio

from foundation.features import FEATURES
from tests.kit.eventually import eventually
from tests.kit.http import send
from tests.kit.mesh import FEEDMESH, Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
BORDERS = [
    part
    for change in ("tier_pull_from=2", "tier_job_every_s=0.1", "pull_from=2", "inline_up_to=1")
    for part in ("--set", change)
]
"""Whoever has two followers is pulled."""


async def output_of(command: list[str]) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=True)
    return str(done.stdout)


async def test_a_post_is_explained_in_words_and_numbers(tmp_path: Path) -> None:
    with running_mesh(tmp_path / "mesh", *BORDERS) as mesh:
        client = Client(mesh)
        ana, bo, cai, dan = [
            (await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)).user.user_id
            for name in ("ana", "bo", "cai", "dan")
        ]
        as_ana = client.as_user(ana)
        for follower, followee in ((ana, bo), (ana, cai), (dan, cai)):
            request = graph_pb.FollowRequest(user_id=followee)
            await client.graph.Follow(request, metadata=client.as_user(follower), timeout=5)
        posts = {
            author: (
                await client.posts.CreatePost(
                    post_pb.CreatePostRequest(caption="hello"), metadata=client.as_user(author), timeout=5
                )
            ).post_id
            for author in (bo, cai, dan, ana)
        }
        await client.settled()
        assert len(await client.latest(ana)) == 3

        async def explained(author: int) -> feed_pb.ExplainFeedItemResponse:
            request = feed_pb.ExplainFeedItemRequest(post_id=posts[author])
            return await client.feed.ExplainFeedItem(request, metadata=as_ana, timeout=5)

        async def is_pulled() -> bool:
            return (await explained(cai)).source == feed_pb2.PULLED

        await eventually(is_pulled)
        head = await client.feed.GetFeed(feed_pb.GetFeedRequest(), metadata=as_ana, timeout=5)
        order = [post.post_id for post in head.posts]
        for author, source, why in (
            (bo, feed_pb2.PUSHED, "shown: you follow the author"),
            (cai, feed_pb2.PULLED, "shown: you follow the author"),
            (ana, feed_pb2.OWN, "shown: you wrote it"),
        ):
            told = await explained(author)
            assert (told.source, told.place, told.visible, told.decision) == (source, feed_pb2.HEAD, True, why)
            assert order[told.slot - 1] == posts[author]
            assert 1 <= told.quick_place <= 3 and told.model_place == told.slot
            assert [feature.name for feature in told.features] == list(FEATURES)
            assert told.model_version
            assert [stage.name for stage in told.stages] == ["viewer", "pulled", "rank", "compose"]
        stranger = await explained(dan)
        assert (stranger.place, stranger.decision) == (feed_pb2.NOT_IN_FEED, "hidden: you do not follow the author")
        assert (stranger.quick_place, stranger.model_place) == (0, 0)

        rest = await send(mesh.edge_address, "GET", f"/v1/feed/explain/{posts[bo]}", token=client.token(ana))
        assert (rest.status, rest.json["source"], rest.json["place"]) == (200, "PUSHED", "HEAD")
        command = [*FEEDMESH, "explain", str(posts[cai]), "--user", "ana", "--data", mesh.data]
        shown = await output_of(command)
        assert "pulled from its author" in shown
        assert "user_author_affinity" in shown
        as_json = await output_of([*command, "--json"])
        assert json.loads(as_json)["decision"] == "shown: you follow the author"

        # What the caller may not see at all does not exist.
        await client.graph.Block(graph_pb.BlockRequest(user_id=ana), metadata=client.as_user(dan), timeout=5)
        with pytest.raises(aio.AioRpcError) as refused:
            await explained(dan)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await send(mesh.edge_address, "GET", "/v1/feed/explain/7", token=client.token(ana))).status == 404
        await client.close()

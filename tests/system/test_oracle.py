"""Everyone's feed, paged to its end, against an independent model, on a real graph and on a made-up one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1.post_internal_service_pb2_grpc import PostInternalServiceStub

from bench.stored_world import StoredWorld, store_graph, store_tiers, stored_graph
from feedmesh_cli.edge_list import read_edge_list
from feedmesh_cli.loading import load, progress
from feedmesh_cli.mesh_file import Mesh
from feedmesh_cli.world import World, as_world, make_world
from foundation.model.clock import SystemClock
from foundation.model.tiers import PULL_FROM
from foundation.rpc.channels import internal_channel
from foundation.timeline.port import CAPACITY
from tests.kit.large_author import large_author_world, readers_agree_with_the_model
from tests.kit.mesh import Client, running_mesh
from tests.kit.reference import ReferenceWorld

GRAPH = "FEEDMESH_TEST_GRAPH"


async def loaded(mesh: Mesh, client: Client, world: World) -> tuple[ReferenceWorld, list[int]]:
    """The world in the mesh, as `seed` brings it there, and in the model."""
    names = world.usernames
    await load(mesh, names, world.follows, [])
    async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        answer = await channel.call(stub.ResolveUsernames, graph_pb.ResolveUsernamesRequest(usernames=names), 10)
    ids = list(answer.user_ids)
    return await posted(mesh, client, world, ids), ids


async def posted(mesh: Mesh, client: Client, world: World, ids: list[int]) -> ReferenceWorld:
    """The world's posts in the mesh, and all of it in the model. Half of the viewers look first: theirs are pushed."""
    authors = [post.author for post in world.posts]
    model = ReferenceWorld()
    for follower, followee in world.follows.tolist():
        model.follows[ids[follower]].add(ids[followee])
    empty = await client.latest_of_all(ids[::2])
    assert not any(empty.values())
    async with internal_channel(mesh.services["post_svc"], mesh.internal_key) as channel:
        posts = PostInternalServiceStub(channel.grpc)
        for start in range(0, len(authors), 1_000):
            batch = [ids[author] for author in authors[start : start + 1_000]]
            request = post_pb.ImportPostsRequest(
                posts=[post_pb.ImportedPost(author_id=author, caption=f"by {author}") for author in batch]
            )
            made = await channel.call(posts.ImportPosts, request, 60)
            for author, post in zip(batch, made.post_ids, strict=True):
                model.post(author, post)
    await client.settled(timeout_s=240)
    return model


async def stored(data: Path, world: StoredWorld) -> list[int]:
    """The graph in the store of a mesh that is going to run in *data*; the ids of its users."""
    data.mkdir()
    store = f"sqlite:///{data}/graph.db"
    with progress() as bar:
        await store_graph(store, world, bar, now_ms=SystemClock().now_ms())
    await store_tiers(store, pull_from=PULL_FROM)
    return list(world.users.tolist())


def real_world(*, posts_per_user: int = 20) -> World | None:
    """The real graph where one is named."""
    path = os.environ.get(GRAPH)
    if not path or not Path(path).exists():
        return None
    return as_world(read_edge_list(Path(path), directed=False), posts_per_user=posts_per_user)


async def compare(client: Client, model: ReferenceWorld, ids: list[int]) -> None:
    feeds = await client.latest_of_all(ids)
    wrong = [user for user in ids if feeds[user] != model.latest(user)]
    assert not wrong, f"{len(wrong)} of {len(ids)} feeds differ, first {wrong[0]}"


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.timeout(600)
async def test_feeds_of_a_real_graph_are_the_model_to_their_end(tmp_path: Path) -> None:
    world = real_world()
    if world is None:
        pytest.skip(f"no edge list: name one in {GRAPH}")
    with running_mesh(tmp_path / "mesh") as mesh:
        client = Client(mesh)
        model, ids = await loaded(mesh, client, world)
        assert max(len(model.latest(user)) for user in ids) > CAPACITY, "feeds go on below their lists"
        await compare(client, model, ids)
        await client.close()


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.timeout(600)
async def test_feeds_of_a_made_up_world_of_5000_are_the_model_to_their_end(tmp_path: Path) -> None:
    world = make_world(users=5_000, seed=7)
    data = tmp_path / "mesh"
    ids = await stored(data, stored_graph(world, now_ms=SystemClock().now_ms()))
    with running_mesh(data) as mesh:
        client = Client(mesh)
        model = await posted(mesh, client, world, ids)
        await compare(client, model, ids)
        for user in ids[:50]:
            pages = await client.pages(user, feed_pb2.RANKED, limit=37)
            ranked = [post.post_id for page in pages for post in page.posts]
            assert sorted(ranked, reverse=True) == model.latest(user), "RANKED shows the same posts in another order"
        await client.close()


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.timeout(300)
async def test_feeds_of_5000_readers_of_an_author_of_100000_followers_are_the_model(tmp_path: Path) -> None:
    data = tmp_path / "mesh"
    world = large_author_world(seed=5, now_ms=SystemClock().now_ms())
    await stored(data, world)
    with running_mesh(data) as mesh:
        client = Client(mesh)
        await readers_agree_with_the_model(client, world)
        await client.close()

"""A world around one author of 100,000 followers, 5,000 of whom read, and one whose posts go out in chunks."""

from __future__ import annotations

import asyncio
import uuid

import numpy as np
from feedmesh.post.v1 import post_service_pb2 as post_pb
from grpc import aio

from bench.stored_world import StoredWorld, stored_world
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from foundation.timeline.redis import route_key
from tests.kit.mesh import BUSY, Client
from tests.kit.reference import ReferenceWorld

FOLLOWERS = 100_000
READERS = 5_000
LARGE_FOLLOWERS = 9_000
"""Below what is pulled, above what is delivered at once."""
FOLLOWS = 20
"""Of each reader among the readers, by a power law."""
POPULARITY = -0.8
LARGEST, LARGE = 0, 1
READER_PLACES = np.arange(2, 2 + READERS)
POSTS = {LARGEST: 20, LARGE: 10}
POSTS_OF_READERS = 400
AT_ONCE = 8
TRIES = 4
"""Of a post that a busy mesh does not answer."""


def large_author_world(*, seed: int, now_ms: int) -> StoredWorld:
    """Nobody has written anything yet. Readers are the users from 2 on."""
    chance = np.random.default_rng(seed)
    users = 1 + FOLLOWERS
    readers = READER_PLACES
    weights = np.cumsum(np.arange(1, READERS + 1, dtype=np.float64) ** POPULARITY)
    drawn = np.searchsorted(weights, chance.random(READERS * FOLLOWS) * weights[-1], side="right")
    pairs = [
        np.column_stack([np.arange(1, users), np.full(FOLLOWERS, LARGEST)]),
        np.column_stack([np.arange(2, 2 + LARGE_FOLLOWERS), np.full(LARGE_FOLLOWERS, LARGE)]),
        np.column_stack([np.repeat(readers, FOLLOWS), readers[np.minimum(drawn, READERS - 1)]]),
    ]
    unique = np.unique(np.concatenate(pairs), axis=0)
    followers, followees = unique[unique[:, 0] != unique[:, 1]].T
    return stored_world(users, followers, followees, chance=chance, now_ms=now_ms, posts_of_each=0)


def reference_of(world: StoredWorld) -> ReferenceWorld:
    """What the readers follow, without a post."""
    model = ReferenceWorld()
    reads = (world.followers >= 2) & (world.followers < 2 + READERS)
    for follower, followee in zip(
        world.users[world.followers[reads]].tolist(), world.users[world.followees[reads]].tolist(), strict=True
    ):
        model.follows[follower].add(followee)
    return model


async def post_in_turns(client: Client, world: StoredWorld, model: ReferenceWorld, *, seed: int) -> None:
    """Posts of all, through the edge, in a random order; in the model once they are acknowledged."""
    chance = np.random.default_rng(seed)
    authors = np.concatenate(
        [*(np.full(count, place) for place, count in POSTS.items()), chance.integers(2, 2 + READERS, POSTS_OF_READERS)]
    )
    chance.shuffle(authors)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(author: int) -> None:
        async with gate:
            model.post(author, await _acknowledged(client, author))

    await asyncio.gather(*map(one, world.users[authors].tolist()))


async def _acknowledged(client: Client, author: int) -> int:
    """The same request again while a busy mesh does not answer it: its id makes that one post."""
    request = post_pb.CreatePostRequest(caption=f"by {author}", request_id=uuid.uuid4().hex)
    for chance in range(TRIES):
        try:
            answer = await client.posts.CreatePost(request, metadata=client.as_user(author), timeout=10)
        except aio.AioRpcError as failure:
            if failure.code() not in BUSY or chance == TRIES - 1:
                raise
            await asyncio.sleep(0.5)
        else:
            return int(answer.post_id)
    raise AssertionError("unreachable")


async def readers_agree_with_the_model(client: Client, world: StoredWorld) -> None:
    """Half of them look before anybody posts, so theirs are pushed to; then everyone's LATEST feed, to its end."""
    readers = world.users[READER_PLACES].tolist()
    model = reference_of(world)
    before = await client.latest_of_all(readers[::2])
    assert not any(before.values())
    await post_in_turns(client, world, model, seed=6)
    await client.settled(timeout_s=60)
    feeds = await client.latest_of_all(readers)
    wrong = [reader for reader in readers if feeds[reader] != model.latest(reader)]
    assert not wrong, f"{len(wrong)} of {len(readers)} feeds differ, first {wrong[0]}"
    assert await _routes(client, model, int(world.users[LARGEST])) == {"pull"}
    assert await _routes(client, model, int(world.users[LARGE])) == {"chunks"}


async def _routes(client: Client, model: ReferenceWorld, author: int) -> set[str]:
    """How the author's posts went."""
    async with open_redis(MeshSettings(redis=client.mesh.redis)) as redis:
        told = await redis.execute([("GET", route_key(post)) for post in model.posts_by[author]], timeout_s=5)
    return {text.decode().partition(":")[0] for text in told}

"""An author of 9,000 followers who posts faster than the fan-out delivers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb

from bench.stored_world import stored_world
from fanout_worker.adapters.pressure_redis import HISTORY_LENGTH, read_history, read_standing
from fanout_worker.model import Level
from feedmesh_cli.engines.addresses import EngineAddresses
from foundation.cql.address import CqlAddress
from foundation.cql.session import open_cql
from foundation.errors import Unavailable
from foundation.model.clock import Clock, SystemClock
from foundation.model.tiers import PULL_FROM
from foundation.redis.client import RedisCluster
from foundation.timeline.gaps import RedisGaps
from foundation.timeline.redis import FEED, RedisTimelines, route_key, timeline_key
from tests.kit.stored_cql import store_graph_cql
from tests.nemesis.load import Crowd, History

FOLLOWERS = 9_000
"""Below what is pulled: all of them are pushed to."""
POSTERS = 12
MOST_POSTS = 900
"""Of one burst: below the requests that a user has in a minute."""


async def author_of_many(crowd: Crowd, redis: RedisCluster) -> int:
    """An author whom FOLLOWERS strangers follow, whose timelines are warm, and the whole *crowd*."""
    now_ms = SystemClock().now_ms()
    followers = np.arange(1, 1 + FOLLOWERS)
    world = stored_world(
        1 + FOLLOWERS,
        followers,
        np.zeros_like(followers),
        chance=np.random.default_rng(),
        now_ms=now_ms,
        posts_of_each=0,
    )
    store = CqlAddress.parse(EngineAddresses.running(crowd.mesh).store("graph_svc"))
    async with open_cql(store) as cql:
        await store_graph_cql(cql, world, np.array([0]), pull_from=PULL_FROM, now_ms=now_ms)
    author, *strangers = world.users.tolist()
    # Whoever read when there was nothing to see: an empty list that lacks nothing.
    await redis.execute([("RPUSH", timeline_key(FEED, stranger), 0) for stranger in strangers], timeout_s=10)
    for user in crowd.ids:
        request = graph_pb.FollowRequest(user_id=author)
        await crowd.client.graph.Follow(request, metadata=crowd.client.as_user(user), timeout=10)
        crowd.model.follows[user].add(author)
    await crowd.client.settled()
    return int(author)


async def burst(crowd: Crowd, author: int, history: History, *, until: Callable[[], Awaitable[bool]]) -> None:
    """The author posts as fast as POSTERS at once get it acknowledged, MOST_POSTS at most."""
    left = MOST_POSTS

    async def posting() -> None:
        nonlocal left
        while left > 0 and not watching.done():
            left -= 1
            await crowd.write_one(author, history)

    async def watch() -> None:
        while not await until():
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(*(posting() for _ in range(POSTERS)))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class LevelSeen:
    """The level of the fan-out from now on."""

    def __init__(self, redis: RedisCluster, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._since_ms = clock.now_ms()

    async def is_now(self, level: Level) -> bool:
        """False also where the node that knows does not answer in time."""
        with suppress(Unavailable):
            return (await read_standing(self._redis, self._clock)).level is level
        return False

    async def by_lag(self) -> Sequence[Level]:
        """The levels that lag alone led to, in order."""
        changes = reversed(await read_history(self._redis, HISTORY_LENGTH))
        return [
            Level(cast("int", change["level"]))
            for change in changes
            if cast("int", change["at_ms"]) >= self._since_ms and change["who"] == "lag"
        ]


async def left_to_readers(crowd: Crowd, redis: RedisCluster) -> set[int]:
    """Posts that the fan-out pushed to nobody because of its level, all of them within a gap."""
    posts = list(crowd.model.author_of)
    routes = await redis.execute([("GET", route_key(post)) for post in posts], timeout_s=10)
    left = {post for post, route in zip(posts, routes, strict=True) if route and route.startswith(b"gap: level 3")}
    gaps = await RedisGaps(redis, SystemClock()).read()
    assert all(any(gap.from_id <= post <= gap.to_id for gap in gaps) for post in left), "readers are told where to look"
    return left


async def lists_are_exact(crowd: Crowd, redis: RedisCluster) -> None:
    """Everyone's timeline is there, and above its floor it holds what the model says; own posts may be elsewhere."""
    timelines = await RedisTimelines(redis, FEED).read(crowd.ids)
    for user in crowd.ids:
        own = set(crowd.model.posts_by[user])
        expected = [post for post in crowd.model.latest(user) if post > timelines[user].floor and post not in own]
        assert [post for post in timelines[user].ids if post not in own] == expected

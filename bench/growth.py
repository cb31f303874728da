"""What a page costs when the graph, the follows of its viewer, or the history behind it are 100 times larger.

Each world is written into the stores before its mesh starts. Lists are full in all of them: they hold 500 ids at most,
so a page should cost the same whatever lies behind.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb

from bench import reference_model
from bench.edge_limit import Minute, require_seconds
from bench.figures import Figure, figure
from bench.loadgen import WARMUP_S, busiest
from bench.stored_world import StoredWorld, store_graph, store_posts, stored_world
from bench.testbed import GET_FEED, Tell, Testbed, start_mesh, stop_mesh, warm
from feedmesh_cli.loading import progress
from feedmesh_cli.ports import free_ports
from foundation.model.clock import SystemClock
from foundation.rpc.tokens import DevIssuer

READERS = 200
RUNS = 5
"""The median of so many counts."""
IN_FLIGHT = 16
MOST_PER_S = 5_000
"""More pages than are answered in a second."""
TIMES = 100
COLD_AT_ONCE = 4
"""Feeds built at a time: what 2,000 followees wrote takes its time to read."""


@dataclass(frozen=True)
class Size:
    """One world: who reads is among the users."""

    name: str
    users: int
    follows: int
    posts_of_each: int


BASE = Size("base", users=READERS, follows=20, posts_of_each=25)
"""20 followees with 25 posts each fill a list."""
SIZES = (
    BASE,
    Size("graph_x100", users=READERS * TIMES, follows=20, posts_of_each=25),
    Size("follows_x100", users=READERS + 20 * TIMES, follows=20 * TIMES, posts_of_each=25),
    Size("history_x100", users=READERS, follows=20, posts_of_each=25 * TIMES),
)


async def bench_growth(seconds: float, tell: Tell) -> list[Figure]:
    """CPU of a first page, a later page and LATEST in each world, and how it compares with the smallest.

    Raises CliError when so few readers cannot send for so long: runs wait for each other, one that is too long cannot.
    """
    require_seconds(seconds, users=READERS, rate=MOST_PER_S)
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        tell(f"{size.name}: {size.users} users, {size.follows} follows each, {size.posts_of_each} posts each")
        async with _testbed(size, tell) as bed:
            minute = Minute()
            found[size.name] = {
                page: median([await _cpu_us(bed, requests, seconds, minute) for _ in range(RUNS)])
                for page, requests in _pages(bed).items()
            }
    return [
        figure(f"{page}_cpu_{name}", used, "µs/request", ceiling=None if name == BASE.name else found[BASE.name][page])
        for name, costs in found.items()
        for page, used in costs.items()
    ]


def _pages(bed: Testbed) -> dict[str, Sequence[dict[str, str]]]:
    """Requests of each kind. Later pages come first: first pages make sessions, and three push out the cursors'."""
    first = feed_pb.GetFeedRequest(limit=20)
    latest = feed_pb.GetFeedRequest(limit=20, mode=feed_pb2.LATEST)
    later = [feed_pb.GetFeedRequest(limit=20, cursor=cursor) for cursor in bed.later_cursors]
    bodies = {"later_page": later, "latest_page": [latest] * len(later), "first_page": [first] * len(later)}
    return {page: bed.requests([body.SerializeToString() for body in some]) for page, some in bodies.items()}


async def _cpu_us(bed: Testbed, requests: Sequence[dict[str, str]], seconds: float, minute: Minute) -> float:
    """Of our own processes and of Valkey; Envoy and the generator do the same in every world."""
    clock = SystemClock()
    await asyncio.sleep(minute.wait_s(clock.monotonic(), busiest(round(MOST_PER_S * (seconds + WARMUP_S)), READERS)))
    result = await bed.generate(GET_FEED, requests, mode="closed", in_flight=IN_FLIGHT, seconds=seconds)
    minute.ended(clock.monotonic(), result["busiest"])
    if result["failed"] or result["rejected"]:
        raise RuntimeError(
            f"{result['failed']} failed, {result['rejected']} were rejected by a service: nothing is measured"
        )
    return float(result["cpu_us"]["services"] + result["cpu_us"]["valkey"])


@asynccontextmanager
async def _testbed(size: Size, tell: Tell) -> AsyncIterator[Testbed]:
    """The mesh on its world, all feeds read."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedmesh-bench-")))
        model = scratch / "reference.onnx"
        reference_model.build(model)
        data = scratch / "mesh"
        data.mkdir()
        clock = SystemClock()
        now_ms = clock.now_ms()
        world = _world(size, now_ms)
        with progress() as bar:
            await store_graph(f"sqlite:///{data}/graph.db", world, bar, now_ms=now_ms)
            await store_posts(f"sqlite:///{data}/posts.db", world, bar, caption="a post of the bench " * 40)
        began = clock.monotonic()
        mesh = start_mesh(data, model, free_ports(1)[0], "embedded")
        start_s = clock.monotonic() - began
        stack.callback(stop_mesh, data)
        issuer = DevIssuer.load_or_create(data / "keys")
        ids = world.users[:READERS].tolist()
        tokens = [issuer.mint(user_id, f"p{place}", now_s=now_ms // 1_000) for place, user_id in enumerate(ids)]
        tell("reading every feed")
        cursors, answer_bytes = await warm(mesh, tokens, at_once=COLD_AT_ONCE)
        yield Testbed(mesh, ids, tokens, (), cursors, answer_bytes, start_s)


def _world(size: Size, now_ms: int) -> StoredWorld:
    """Readers come first; with more users than readers everybody follows as many, unless that is what grows."""
    chance = np.random.default_rng(7)
    following = READERS if size.follows > BASE.follows else size.users
    choices = np.array(
        [
            np.sort(chance.choice(size.users - 1, size=min(size.follows, size.users - 1), replace=False))
            for _ in range(following)
        ]
    )
    followers = np.repeat(np.arange(following), choices.shape[1])
    followees = choices.ravel()
    followees = followees + (followees >= followers)  # not oneself
    return stored_world(
        size.users, followers, followees, chance=chance, now_ms=now_ms, posts_of_each=size.posts_of_each
    )

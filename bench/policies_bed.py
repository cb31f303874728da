"""What policies are measured on: one Valkey, SQLite, and each service in a process of its own, without an edge."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.post.v1 import post_service_pb2 as post_pb
from grpc import aio

import fanout_worker.settings
import feed_svc.settings
import graph_svc.settings
import post_svc.settings
import rank_svc.settings
from bench import reference_model
from bench.stored_world import Ids, StoredWorld, power_law, store_graph, store_posts, store_tiers
from bench.testbed import CREATE_POST, GET_FEED, WARM_ROUNDS, Tell, is_whole
from fanout_worker.adapters.pressure_redis import Override, set_override
from fanout_worker.model import Level
from fanout_worker.stages.policy import PolicyName
from feedmesh_cli.children import Child, start_child
from feedmesh_cli.consumer_groups import CONSUMER_GROUPS
from feedmesh_cli.loading import progress
from feedmesh_cli.ports import free_ports
from feedmesh_cli.starting import status_answers, until_ready
from feedmesh_cli.valkey import ValkeyServer
from foundation.events.port import EventLog
from foundation.model.clock import SystemClock
from foundation.redis.client import Command, RedisCluster, connect
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from foundation.runtime.settings import to_environment
from foundation.timeline.port import TTL_S
from foundation.timeline.redis import AUTHOR_POSTS, FEED, timeline_key

CLOCK = SystemClock()
SERVICES = ("graph_svc", "post_svc", "rank_svc", "fanout_worker", "feed_svc")
READERS = 1_000
"""Users who read; the others' timelines are there and written to all the same."""
WRITERS = 2_000
POSTS_OF_EACH = 3
SHORT = 20
"""Ids in the timeline of somebody who does not read."""
LISTS_AT_ONCE = 1_000
AT_ONCE = 16
NOBODY = 2**31 - 2
"""More followers than anybody has."""
LOOK_S = 0.02
DRAINED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Threshold:
    """From how many followers on authors are pulled, and the policy of the worker that goes with it."""

    pull_from: int
    policy: PolicyName

    @classmethod
    def of(cls, pull_from: int) -> Threshold:
        """1: all who are followed are pulled; NOBODY: all are pushed."""
        return cls(pull_from, {1: "pull_only", NOBODY: "push_only"}.get(pull_from, "hybrid"))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Mix:
    """Who writes."""

    name: str
    writer_tokens: Sequence[str]
    followers: float
    """Of the author of a post, on average."""


@dataclass(kw_only=True)
class PoliciesBed:
    """The stores with the world in them; services come and go with the threshold."""

    data: Path
    world: StoredWorld
    valkey: ValkeyServer
    redis: RedisCluster
    log: EventLog
    mesh: MeshSettings
    reader_places: Ids
    reader_tokens: Sequence[str]
    mixes: Sequence[Mix]
    children: dict[str, Child] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self, threshold: Threshold) -> AsyncIterator[None]:
        """The mesh at *threshold*: marks, timelines as they would be, services, every reader's feed read once."""
        await store_tiers(self._url("graph"), pull_from=threshold.pull_from)
        await self._fill(threshold)
        async with AsyncExitStack() as stack:
            await self._start(threshold, stack)
            await self._read_all()
            yield

    async def offer(self, mix: Mix, *, reads: float, writes: float, seconds: float) -> tuple[dict[str, float], int]:
        """CPU seconds of every process for so many seconds of both, until all is delivered; how many calls failed."""
        before = self._cpu_s()
        first_page = feed_pb.GetFeedRequest(limit=20).SerializeToString()
        post = post_pb.CreatePostRequest(caption="a post of the bench " * 10).SerializeToString()
        read, written = await asyncio.gather(
            self._generate("feed_svc", GET_FEED, self.reader_tokens, first_page, rate=reads, seconds=seconds),
            self._generate("post_svc", CREATE_POST, mix.writer_tokens, post, rate=writes, seconds=seconds, zipf=0.0),
        )
        await self._drained()
        after = self._cpu_s()
        wrong = sum(result["failed"] + result["rejected"] for result in (read, written))
        return {name: after[name] - before[name] for name in after}, wrong

    async def idle(self, seconds: float) -> dict[str, float]:
        """CPU seconds of every process while nobody asks anything."""
        before = self._cpu_s()
        await asyncio.sleep(seconds)
        after = self._cpu_s()
        return {name: after[name] - before[name] for name in after}

    def _url(self, name: str) -> str:
        return f"sqlite:///{self.data}/{name}.db"

    async def _fill(self, threshold: Threshold) -> None:
        """Timelines that hold what was pushed, and everyone's own posts; no other key is left."""
        await self.redis.execute([("FLUSHALL",)], timeout_s=30)
        world = self.world
        pushed = world.follower_counts() < threshold.pull_from
        of_author = world.posts.reshape(POSTS_OF_EACH, len(world.users)).T
        reading = np.zeros(len(world.users), dtype=bool)
        reading[self.reader_places] = True
        bounds = np.searchsorted(world.followers, np.arange(len(world.users) + 1))
        commands: list[Command] = []
        for place, user_id in enumerate(world.users.tolist()):
            followees = world.followees[bounds[place] : bounds[place + 1]]
            ids = np.sort(of_author[followees[pushed[followees]]].ravel())[::-1]
            kept = ids if reading[place] else ids[:SHORT]
            feed, own = timeline_key(FEED, user_id), timeline_key(AUTHOR_POSTS, user_id)
            commands += [
                ("RPUSH", feed, *kept.tolist(), 0),
                ("EXPIRE", feed, TTL_S),
                ("RPUSH", own, *np.sort(of_author[place])[::-1].tolist(), 0),
                ("EXPIRE", own, TTL_S),
            ]
            if len(commands) >= LISTS_AT_ONCE:
                await self.redis.execute(commands, timeout_s=30)
                commands = []
        await self.redis.execute(commands, timeout_s=30)
        # What is measured is a policy, not what pressure makes of it.
        far_ms = CLOCK.now_ms() + 3_600_000
        word = Override(level=Level.NORMAL, until_ms=far_ms, who="bench", why="policies are measured")
        await set_override(self.redis, CLOCK, word)

    async def _start(self, threshold: Threshold, stack: AsyncExitStack) -> None:
        ports = free_ports(2 * len(SERVICES))
        places = dict(zip(SERVICES, zip(ports[::2], ports[1::2], strict=True), strict=True))
        addresses = {name: f"127.0.0.1:{port}" for name, (port, _) in places.items()}
        key = "ab" * 32

        def mesh(name: str) -> MeshSettings:
            port, status_port = places[name]
            return MeshSettings(
                redis=self.mesh.redis,
                log_url=self.mesh.log_url,
                jwks_path=self.mesh.jwks_path,
                internal_key=self.mesh.internal_key,
                worker=SERVICES.index(name),
                port=port,
                status_port=status_port,
                graph_svc=addresses["graph_svc"],
                post_svc=addresses["post_svc"],
                rank_svc=addresses["rank_svc"],
            )

        pull_from = threshold.pull_from
        settings = {
            "graph_svc": graph_svc.settings.Settings(
                mesh=mesh("graph_svc"), database_url=self._url("graph"), cursor_key=key,
                tier_pull_from=pull_from, tier_super_from=NOBODY + 1,
            ),
            "post_svc": post_svc.settings.Settings(
                mesh=mesh("post_svc"), database_url=self._url("posts"), cursor_key=key
            ),
            "rank_svc": rank_svc.settings.Settings(
                mesh=mesh("rank_svc"), model_path=str(self.data / "reference.onnx")
            ),
            "fanout_worker": fanout_worker.settings.Settings(
                mesh=mesh("fanout_worker"), fanout_policy=threshold.policy,
                **({"pull_from": pull_from, "inline_up_to": min(1_000, pull_from - 1), "rate_limited_up_to": NOBODY}
                   if threshold.policy == "hybrid" else {}),
            ),
            "feed_svc": feed_svc.settings.Settings(
                mesh=mesh("feed_svc"), database_url=self._url("feed"), cursor_key=key
            ),
        }  # fmt: skip
        self.children.clear()
        for name, one in settings.items():
            child = await start_child(
                name, [sys.executable, "-m", name], self.data / f"{name}.log", environment=to_environment(one)
            )
            stack.push_async_callback(child.stop, grace_s=5.0)
            self.children[name] = child
        self._addresses = addresses
        for name, child in self.children.items():
            await until_ready(child, partial(status_answers, f"127.0.0.1:{places[name][1]}"), "look at its log")

    async def _read_all(self) -> None:
        """Every reader's first page until it is whole: records and cards are where readers find them."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with aio.insecure_channel(self._addresses["feed_svc"]) as channel:
            stub = FeedServiceStub(channel)

            async def first(token: str) -> feed_pb.GetFeedResponse:
                async with gate:
                    metadata = (("authorization", f"Bearer {token}"),)
                    return await stub.GetFeed(feed_pb.GetFeedRequest(limit=20), metadata=metadata, timeout=10)

            # Nothing is cached at first: a page may come without what its reader's second one has.
            left = list(self.reader_tokens)
            for _ in range(WARM_ROUNDS):
                pages = await asyncio.gather(*map(first, left), return_exceptions=True)
                left = [
                    token
                    for token, page in zip(left, pages, strict=True)
                    if isinstance(page, BaseException) or not is_whole(page)
                ]
        if left:
            raise RuntimeError(f"{len(left)} of {len(self.reader_tokens)} readers get no whole page")

    async def _generate(
        self, service: str, path: str, tokens: Sequence[str], body: bytes, **plan: Any
    ) -> dict[str, Any]:
        encoded = base64.b64encode(body).decode()
        whole = {
            "address": self._addresses[service],
            "path": path,
            "requests": [{"token": token, "body": encoded} for token in tokens],
            "mode": "open",
            "warmup_s": 0.0,
            **plan,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.loadgen", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(plan["seconds"] + 60):
            output, _ = await process.communicate(json.dumps(whole).encode())
        result: dict[str, Any] = json.loads(output)
        return result

    async def _drained(self) -> None:
        async with asyncio.timeout(DRAINED_WITHIN_S):
            while any([await self.log.lag(group, topics) for group, topics in CONSUMER_GROUPS.items()]):
                await asyncio.sleep(LOOK_S)

    def _cpu_s(self) -> dict[str, float]:
        pids = {name: child.pid for name, child in self.children.items()} | {"valkey": self.valkey.pid}
        times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
        return {name: float(one.user + one.system) for name, one in times.items()}


@asynccontextmanager
async def policies_bed(*, users: int, follows: int, tell: Tell) -> AsyncIterator[PoliciesBed]:
    """The world in the stores, and Valkey running."""
    async with AsyncExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedmesh-bench-")))
        reference_model.build(data / "reference.onnx")
        now_ms = CLOCK.now_ms()
        tell(f"making up {users} users who follow {follows} each")
        world = power_law(users, follows, seed=7, now_ms=now_ms, posts_of_each=POSTS_OF_EACH)
        tell(f"writing {len(world.followers)} follows and {len(world.posts)} posts into the stores")
        with progress() as bar:
            await store_graph(f"sqlite:///{data}/graph.db", world, bar, now_ms=now_ms)
            await store_posts(f"sqlite:///{data}/posts.db", world, bar, caption="a post of the bench " * 40)
        (port,) = free_ports(1)
        valkey = ValkeyServer()
        stack.push_async_callback(valkey.stop)
        await valkey.start(data / "valkey", port)
        redis = await connect([("127.0.0.1", port)], timeout_s=5)
        stack.push_async_callback(redis.close)
        issuer = DevIssuer.load_or_create(data)
        mesh = MeshSettings(
            redis=f"127.0.0.1:{port}",
            log_url=f"sqlite:///{data}/log.db",
            jwks_path=str(issuer.jwks_path),
            internal_key="the key of a benchmark",
        )
        log = await stack.enter_async_context(open_log(mesh))
        now_s = now_ms // 1_000

        def tokens(places: Ids) -> list[str]:
            return [issuer.mint(int(world.users[place]), f"p{place}", now_s=now_s) for place in places.tolist()]

        readers, mixes = _people(world, tokens)
        yield PoliciesBed(
            data=data, world=world, valkey=valkey, redis=redis, log=log, mesh=mesh,
            reader_places=readers, reader_tokens=tokens(readers), mixes=mixes,
        )  # fmt: skip


def _people(world: StoredWorld, tokens: Any) -> tuple[Ids, list[Mix]]:
    """Who reads, and the two mixes of who writes: everybody alike, and people in proportion to their followers."""
    chance = np.random.default_rng(11)
    users = len(world.users)
    readers = chance.choice(users, size=min(READERS, users), replace=False)
    counts = world.follower_counts()
    mixes = []
    for name, weights in (("alike", None), ("popular", counts / counts.sum())):
        writers = chance.choice(users, size=WRITERS, p=weights)
        mixes.append(Mix(name, tokens(writers), float(counts[writers].mean())))
    return readers, mixes

"""What the fan-out is measured on: three Valkeys, a log, graph_svc with made-up followers, and worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.post_events_pb2 import PostCreated
from sqlalchemy import Connection, insert

import fanout_worker.settings
import graph_svc.settings
from fanout_worker.adapters.pressure_redis import Override, set_override
from fanout_worker.model import Level
from feedmesh_cli.children import Child, start_child
from feedmesh_cli.ports import free_ports
from feedmesh_cli.starting import status_answers, until_ready
from feedmesh_cli.valkey import ValkeyServer
from foundation.events.envelope import encode
from foundation.events.port import FEED_FANOUT, POSTS_CREATED, Event, EventLog
from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes, id_at
from foundation.redis.client import Command, RedisCluster, connect
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from foundation.runtime.settings import to_environment
from foundation.sql.database import open_database
from foundation.timeline.port import CAPACITY, SLACK, TTL_S, Owners
from foundation.timeline.redis import AUTHOR_POSTS, FEED, timeline_key
from graph_svc.adapters.tables import FOLLOWERS, GRAPH_TABLES
from graph_svc.model import BUCKET_CAPACITY

NODES = 3
READERS = 100_000
FULL = 10_000
"""Readers whose lists are full and who follow everybody measured but the largest author; the others' are short."""
SHORT = 20
ROWS_AT_ONCE = 10_000
AUTHORS = 200
FOLLOWERS_OF_EACH = 200
LARGE, LARGEST = 9_999, READERS
CLOCK = SystemClock()
LOOK_S = 0.005
LOOK_AT_KAFKA_S = 0.05
"""A look at Kafka asks a broker that has other things to do."""
GROUPS = {"fanout.posts": POSTS_CREATED, "fanout.large": POSTS_CREATED, "fanout.chunks": FEED_FANOUT}

Tell = Callable[[str], None]


@dataclass(kw_only=True)
class FanoutBed:
    """All of it, running, with one worker."""

    redis: RedisCluster
    log: EventLog
    worker: Child
    start_worker: Callable[[], Awaitable[Child]]
    """Starts one more; ended with the bed."""
    valkeys: Sequence[int]
    """Process ids."""
    readers: Owners
    look_s: float = LOOK_S
    """How often the log is asked whether all is done."""
    ids: Snowflakes = field(default_factory=lambda: Snowflakes(CLOCK, region=7))

    @property
    def authors(self) -> Sequence[int]:
        """With FOLLOWERS_OF_EACH followers each."""
        return range(1, AUTHORS + 1)

    @property
    def large(self) -> int:
        """The author with LARGE followers."""
        return AUTHORS + 1

    @property
    def largest(self) -> int:
        """The author whom every reader follows."""
        return AUTHORS + 2

    def followers_of(self, author: int) -> Owners:
        """Ascending, as graph_svc sends them."""
        return followers_of(self.readers, author)

    def chunk(self, place: int) -> Event:
        """A new post for 1,000 of the readers whose lists are full."""
        start = place * 1_000 % FULL
        post_id = self.ids.next()
        owners = self.readers[start : start + 1_000]
        record = FanoutChunk(
            post_ids=[post_id], author_id=1, follower_ids=owners.tobytes(), number=1, last=True,
            deliveries=len(owners), created_ms=CLOCK.now_ms(),
        )  # fmt: skip
        return Event(FEED_FANOUT, place, encode(record, event_id=post_id, version=1))

    def post(self, author: int) -> tuple[int, Event]:
        """The id and the event of a new post."""
        post_id = self.ids.next()
        followers = len(self.followers_of(author))
        record = PostCreated(post_id=post_id, author_id=author, author_tier=1, author_followers=followers)
        return post_id, Event(POSTS_CREATED, author, encode(record, event_id=post_id, version=post_id))

    def hold(self) -> None:
        """The worker stands still."""
        os.kill(self.worker.pid, signal.SIGSTOP)

    def release(self) -> None:
        """The worker goes on."""
        os.kill(self.worker.pid, signal.SIGCONT)

    async def drained(self) -> None:
        """Everything in the log is done."""
        while any([await self.log.lag(group, [topic]) for group, topic in GROUPS.items()]):
            await asyncio.sleep(self.look_s)

    async def arrived(self, post_id: int, owners: Sequence[int]) -> None:
        """The lists of *owners* hold the post, near their heads."""
        looks = [("LPOS", timeline_key(FEED, owner), post_id, "MAXLEN", 64) for owner in owners]
        while None in await self.redis.execute(looks, timeout_s=5):
            await asyncio.sleep(LOOK_S)

    def worker_cpu_s(self) -> float:
        """CPU of the worker so far."""
        return cpu_s(self.worker.pid)

    def valkey_cpu_s(self) -> float:
        """CPU of all Valkeys so far."""
        return sum(map(cpu_s, self.valkeys))

    def worker_mib(self) -> float:
        """Resident memory of the worker."""
        return float(psutil.Process(self.worker.pid).memory_info().rss) / 2**20


def followers_of(readers: Owners, author: int) -> Owners:
    """The followers of the made-up *author*: a stretch of the readers."""
    if author > AUTHORS:
        return readers[: LARGE if author == AUTHORS + 1 else LARGEST]
    start = author * 37 % (FULL - FOLLOWERS_OF_EACH)
    return readers[start : start + FOLLOWERS_OF_EACH]


@asynccontextmanager
async def fanout_bed(tell: Tell, *, log_url: str = "") -> AsyncIterator[FanoutBed]:
    """Everything started; lists and followers are there. The log is one of SQLite's own unless *log_url* is given."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedmesh-bench-")))
        tell("starting three Valkeys")
        ports = free_ports(NODES + 2)
        nodes, (graph_port, graph_status) = ports[:NODES], ports[NODES:]
        servers = [ValkeyServer() for _ in nodes]
        for server in servers:
            stack.push_async_callback(server.stop)
        await asyncio.gather(
            *(
                server.start(scratch / str(port), port, cluster=nodes)
                for server, port in zip(servers, nodes, strict=True)
            )
        )
        redis = await connect([("127.0.0.1", port) for port in nodes], timeout_s=5)
        stack.push_async_callback(redis.close)
        readers = np.arange(READERS, dtype=np.int64) * 977 * 2**22 + id_at(CLOCK.now_ms() - 10**10)
        tell(f"filling {READERS} lists, {FULL} of them to the brim")
        await _fill(redis, readers)
        far_ms = CLOCK.now_ms() + 3_600_000
        await set_override(
            redis, CLOCK, Override(level=Level.NORMAL, until_ms=far_ms, who="bench", why="pushing is measured")
        )
        database_url = f"sqlite:///{scratch}/graph.db"
        await _follow(database_url, readers)
        issuer = DevIssuer.load_or_create(scratch)
        mesh = partial(
            MeshSettings,
            redis=",".join(f"127.0.0.1:{port}" for port in nodes),
            log_url=log_url or f"sqlite:///{scratch}/log.db",
            jwks_path=str(issuer.jwks_path),
            internal_key="the key of a benchmark",
            graph_svc=f"127.0.0.1:{graph_port}",
        )
        graph = graph_svc.settings.Settings(
            mesh=mesh(port=graph_port, status_port=graph_status), database_url=database_url, cursor_key="ab" * 32
        )

        async def start(name: str, settings: Any, status: int) -> Child:
            log = scratch / f"{name}-{status}.log"
            child = await start_child(name, [sys.executable, "-m", name], log, environment=to_environment(settings))
            stack.push_async_callback(child.stop, grace_s=5.0)
            await until_ready(child, partial(status_answers, f"127.0.0.1:{status}"), "look at its log")
            return child

        async def start_worker() -> Child:
            port, status = free_ports(2)
            settings = fanout_worker.settings.Settings(mesh=mesh(port=port, status_port=status))
            return await start("fanout_worker", settings, status)

        tell("starting graph_svc and one worker")
        await start("graph_svc", graph, graph_status)
        first = await start_worker()
        log = await stack.enter_async_context(open_log(graph.mesh))
        yield FanoutBed(
            redis=redis,
            log=log,
            worker=first,
            start_worker=start_worker,
            valkeys=[server.pid for server in servers],
            readers=readers,
            look_s=LOOK_AT_KAFKA_S if log_url.startswith("kafka:") else LOOK_S,
        )


async def _fill(redis: RedisCluster, readers: Owners) -> None:
    oldest = id_at(CLOCK.now_ms() - 10**9)
    brim = [oldest + place * 2**22 for place in range(CAPACITY + SLACK, 0, -1)]
    for start in range(0, len(readers), 500):
        commands: list[Command] = []
        for owner in readers[start : start + 500].tolist():
            key = timeline_key(FEED, owner)
            ids = brim if start < FULL else brim[-SHORT:]
            commands += [("RPUSH", key, *ids, 0), ("EXPIRE", key, TTL_S)]
        await redis.execute(commands, timeout_s=30)
    for author in range(1, AUTHORS + 3):
        await redis.execute([("RPUSH", timeline_key(AUTHOR_POSTS, author), 0)])


async def _follow(database_url: str, readers: Owners) -> None:
    async with open_database(database_url, GRAPH_TABLES) as database:
        for author in range(1, AUTHORS + 3):
            followers = followers_of(readers, author).tolist()
            for start in range(0, len(followers), ROWS_AT_ONCE):
                part = followers[start : start + ROWS_AT_ONCE]
                row = {"followee_id": author, "bucket": start // BUCKET_CAPACITY}
                rows = [{**row, "follower_id": one, "followed_id": start + place} for place, one in enumerate(part)]
                await database.write(partial(_insert, rows=rows))


def _insert(connection: Connection, rows: list[dict[str, int]]) -> None:
    connection.execute(insert(FOLLOWERS), rows)


def cpu_s(pid: int) -> float:
    """CPU of the process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

"""What a first page is made of, and what it costs where it cannot be made the usual way: cold lists, no cache."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from statistics import mean
from typing import Any

import grpc
import numpy as np
import psutil
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.rank.v1 import rank_service_pb2 as rank_pb
from grpc import aio

from bench.figures import Figure, figure
from bench.testbed import Tell, Testbed
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster
from foundation.redis.scripts import make_script
from foundation.rpc.unary import unary_channel
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis
from foundation.timeline.redis import FEED, RedisTimelines, timeline_key

RANK = "/feedmesh.rank.v1.RankService/RankCandidates"
RANKINGS = 4_000
RANKED_AT_ONCE = 8
LOOKED_AT = 200
"""Lists, and pages of each kind, one after the other."""
WITHOUT_CACHE = 20
TIMEOUT_S = 5.0
HEADER = (("x-feed-timing", "1"),)

_MEMORY = make_script("memory", b"#!lua flags=no-writes\nreturn redis.call('MEMORY', 'USAGE', KEYS[1])\n")


async def first_page_details(bed: Testbed, tell: Tell) -> list[Figure]:
    """CPU of a ranking, bytes of a list, time by stage, pages of cold lists, pages while every cache node hangs."""
    tell("what a first page is made of")
    readers = bed.reader_ids[:LOOKED_AT]
    async with open_redis(MeshSettings(redis=bed.mesh.redis)) as redis:
        lists = await RedisTimelines(redis, FEED).read(readers)
        sizes = await redis.execute([_MEMORY.by_key(timeline_key(FEED, reader), (), ()) for reader in readers])
        figures = [
            figure("feed_ids", mean(len(timeline.ids) for timeline in lists.values()), "ids"),
            figure("feed_bytes", mean(sizes), "bytes"),
            figure("rank_cpu", await _ranking_cpu_us(bed, next(iter(lists.values())).ids), "µs/request"),
        ]
        pages = await _pages(bed, LOOKED_AT)
        figures += [figure(f"stage_{name}", ms, "ms") for name, ms in _by_stage(pages).items()]
        tell(f"{LOOKED_AT} cold lists")
        figures += _latencies("cold_page", await _cold_pages(bed, redis))
    tell(f"{WITHOUT_CACHE} pages while every cache node hangs")
    with _hanging(bed):
        pages, refused = await _pages_at_last(bed, WITHOUT_CACHE)
    return [*figures, figure("without_cache_refused", refused, "requests"), *_latencies("without_cache", pages)]


async def _ranking_cpu_us(bed: Testbed, candidates: Sequence[int]) -> float:
    """CPU of the process that ranks, of one call with all *candidates*."""
    packed = np.array(candidates, dtype="<i8").tobytes()
    request = rank_pb.RankCandidatesRequest(user_id=bed.reader_ids[0], candidate_ids=packed).SerializeToString()
    processes = bed.mesh.processes
    ranking = psutil.Process((processes.get("rank_svc") or processes["services"]).pid)

    async with unary_channel(bed.mesh.services["rank_svc"], bed.mesh.internal_key) as channel:

        async def rank(times: int) -> None:
            for _ in range(times):
                await channel.call(RANK, request, TIMEOUT_S)

        await rank(RANKED_AT_ONCE)
        before = ranking.cpu_times()
        await asyncio.gather(*(rank(RANKINGS // RANKED_AT_ONCE) for _ in range(RANKED_AT_ONCE)))
        after = ranking.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    return used_s * 1e6 / RANKINGS


@contextmanager
def _hanging(bed: Testbed) -> Iterator[None]:
    """Every cache node is stopped meanwhile."""
    nodes = [process.pid for name, process in bed.mesh.processes.items() if name.startswith("valkey")]
    for pid in nodes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in nodes:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def _feed(bed: Testbed) -> AsyncIterator[FeedServiceStub]:
    async with aio.insecure_channel(bed.mesh.edge_address) as channel:
        yield FeedServiceStub(channel)


async def _pages(bed: Testbed, count: int) -> list[tuple[float, str]]:
    """Milliseconds and Server-Timing of a first page of each of so many readers, one at a time."""
    async with _feed(bed) as feed:
        return [await _page(feed, token) for token in bed.tokens[:count]]


async def _pages_at_last(bed: Testbed, count: int) -> tuple[list[tuple[float, str]], int]:
    """The same where refusals are asked again, which counts as waiting; and how many there were."""
    clock = SystemClock()
    refused = 0
    pages = []
    async with _feed(bed) as feed:
        for token in bed.tokens[:count]:
            began = clock.monotonic()
            while True:
                try:
                    _, timing = await _page(feed, token)
                except aio.AioRpcError as failure:
                    if failure.code() is not grpc.StatusCode.UNAVAILABLE or clock.monotonic() - began > TIMEOUT_S:
                        raise
                    refused += 1
                    continue
                pages.append(((clock.monotonic() - began) * 1_000, timing))
                break
    return pages, refused


async def _page(feed: FeedServiceStub, token: str) -> tuple[float, str]:
    clock = SystemClock()
    began = clock.monotonic()
    request = feed_pb.GetFeedRequest(limit=20)
    call = feed.GetFeed(request, metadata=(("authorization", f"Bearer {token}"), *HEADER), timeout=TIMEOUT_S)
    page = await call
    took_ms = (clock.monotonic() - began) * 1_000
    if len(page.posts) < request.limit:
        raise RuntimeError(f"a page of {len(page.posts)} posts: {page.degraded_reasons}")
    told: dict[str, Any] = dict(iter(await call.initial_metadata() or ()))
    return took_ms, str(told.get("server-timing", ""))


async def _cold_pages(bed: Testbed, redis: RedisCluster) -> list[tuple[float, str]]:
    feeds = RedisTimelines(redis, FEED)
    pages = []
    async with _feed(bed) as feed:
        for reader, token in zip(bed.reader_ids[:LOOKED_AT], bed.tokens, strict=False):
            await feeds.unlink([reader])
            pages.append(await _page(feed, token))
    return pages


def _by_stage(pages: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Mean milliseconds of each stage; with one request at a time nobody waits for anybody but the stores."""
    spent: dict[str, float] = defaultdict(float)
    for _, timing in pages:
        for entry in filter(None, timing.split(", ")):
            name, duration, *_ = entry.split(";")
            spent[name] += float(duration.removeprefix("dur="))
    return {name: total / len(pages) for name, total in spent.items()}


def _latencies(name: str, pages: Sequence[tuple[float, str]]) -> list[Figure]:
    p50, p99 = np.percentile([took_ms for took_ms, _ in pages], [50, 99]).tolist()
    return [figure(f"{name}_p50", p50, "ms"), figure(f"{name}_p99", p99, "ms")]

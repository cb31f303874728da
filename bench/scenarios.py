"""What `feedmesh bench NAME` measures. Capacity comes from a closed loop, latency from an open loop at 60 % of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import Any

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from bench.feed_details import first_page_details
from bench.figures import Figure, figure
from bench.overload import bench_overload
from bench.testbed import CREATE_POST, GET_FEED, NOOP, Tell, Testbed
from feedmesh_cli.embedded_config import SERVICES
from feedmesh_cli.engines.addresses import KEYSPACES
from foundation.model.clock import SystemRandomness

IN_FLIGHT = 16
STEADY = 0.6
TURNS = 5
"""The machine's speed drifts: a page is measured in so many turns, each beside a turn of the ceiling."""
TURN_WARMUP_S = 0.5
OURS = frozenset({"services", *SERVICES})
"""Processes that run our code."""
MOST_CREATED_PER_S = 4_000
"""More posts than are acknowledged in a second: each needs a request_id of its own."""


@dataclass(frozen=True)
class Bench:
    """One benchmark."""

    about: str
    run: Callable[[Testbed, float, Tell], Awaitable[list[Figure]]]


async def _capacity(
    bed: Testbed, path: str, requests: Sequence[dict[str, str]], seconds: float, **plan: float
) -> dict[str, Any]:
    return await bed.generate(path, requests, mode="closed", in_flight=IN_FLIGHT, seconds=seconds, **plan)


async def _ceiling(bed: Testbed, seconds: float, **plan: float) -> dict[str, Any]:
    return await _capacity(bed, NOOP, bed.requests([b""] * len(bed.tokens)), seconds, **plan)


@dataclass(frozen=True)
class Turns:
    """A page and the ceiling, measured in turns."""

    pages: Sequence[dict[str, Any]]
    ceilings: Sequence[dict[str, Any]]

    def shares(self) -> list[float]:
        """The page's share of the ceiling, of each turn."""
        return [page["rate"] / noop["rate"] for page, noop in zip(self.pages, self.ceilings, strict=True)]

    def shown(self, name: str) -> list[Figure]:
        """As `_shown`, and the least share of a turn."""
        shares = self.shares()
        ceiling = _middle(self.ceilings)["rate"]
        figures = _shown(name, _middle(self.pages), ceiling, share=median(shares))
        return [*figures, figure(f"{name}_least_share", min(shares) * 100, "%")]


async def _in_turns(bed: Testbed, requests: Sequence[dict[str, str]], seconds: float) -> Turns:
    """So many *seconds* of GetFeed, and as many of the ceiling."""
    pages, ceilings = [], []
    for _ in range(TURNS):
        ceilings.append(await _ceiling(bed, seconds / TURNS, warmup_s=TURN_WARMUP_S))
        pages.append(await _capacity(bed, GET_FEED, requests, seconds / TURNS, warmup_s=TURN_WARMUP_S))
    return Turns(pages, ceilings)


def _middle(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of rate and CPU; all that failed."""
    return {
        "rate": median(result["rate"] for result in results),
        "failed": sum(result["failed"] for result in results),
        "rejected": sum(result["rejected"] for result in results),
        "generator_us": median(result["generator_us"] for result in results),
        "cpu_us": {
            process: median(result["cpu_us"][process] for result in results) for process in results[0]["cpu_us"]
        },
    }


def _shown(name: str, result: dict[str, Any], ceiling: float | None, share: float | None = None) -> list[Figure]:
    """Rate, failures and the CPU of each process."""
    figures = [
        figure(name, result["rate"], "requests/s", ceiling=ceiling, share=share),
        figure(f"{name}_failed", result["failed"] + result["rejected"], "requests"),
        figure(f"{name}_cpu_generator", result["generator_us"], "µs/request"),
    ]
    figures += [
        figure(f"{name}_cpu_{process}", used, "µs/request")
        for process, used in result["cpu_us"].items()
        if process != "supervisor"
    ]
    return figures


async def bench_ceiling(bed: Testbed, seconds: float, tell: Tell) -> list[Figure]:
    """The no-op through Envoy."""
    tell(f"ceiling: a no-op that answers {bed.answer_bytes} bytes")
    return _shown("ceiling", await _ceiling(bed, seconds), None)


async def bench_feed(bed: Testbed, seconds: float, tell: Tell) -> list[Figure]:
    """First page, later page, LATEST, the latency of a first page at a steady load, and what it is made of."""
    readers = len(bed.tokens)
    first_body = feed_pb.GetFeedRequest(limit=20).SerializeToString()
    latest_body = feed_pb.GetFeedRequest(limit=20, mode=feed_pb2.LATEST).SerializeToString()
    later_bodies = [feed_pb.GetFeedRequest(limit=20, cursor=cursor).SerializeToString() for cursor in bed.later_cursors]
    tell(f"{TURNS} turns of each page and of the ceiling, a no-op that answers {bed.answer_bytes} bytes")
    # Later pages come first: first pages make sessions of their own, and three push the measured cursors out.
    tell("later page")
    later = await _in_turns(bed, bed.requests(later_bodies), seconds)
    tell("LATEST, first page")
    latest = await _in_turns(bed, bed.requests([latest_body] * readers), seconds)
    tell("RANKED, first page")
    requests = bed.requests([first_body] * readers)
    first = await _in_turns(bed, requests, seconds)
    figures = _shown("ceiling", _middle([*later.ceilings, *latest.ceilings, *first.ceilings]), None)
    figures.append(figure("answer_bytes", bed.answer_bytes, "bytes"))
    for name, turns in (("first_page", first), ("later_page", later), ("latest_page", latest)):
        figures += turns.shown(name)
    middle = _middle(first.pages)
    ours = sum(used for process, used in middle["cpu_us"].items() if process in OURS)
    figures.append(figure("first_page_cpu", ours, "µs/request"))
    rate = middle["rate"] * STEADY
    tell(f"RANKED, first page, open loop at {rate:.0f}/s")
    steady = await bed.generate(GET_FEED, requests, mode="open", rate=rate, seconds=seconds * 2)
    figures += [
        figure("first_page_steady", steady["rate"], "requests/s", ceiling=rate),
        figure("first_page_steady_failed", steady["failed"] + steady["rejected"], "requests"),
        figure("first_page_p50", steady["p50_ms"], "ms"),
        figure("first_page_p99", steady["p99_ms"], "ms"),
    ]
    return figures + await first_page_details(bed, tell)


async def bench_post(bed: Testbed, seconds: float, tell: Tell) -> list[Figure]:
    """CreatePost by authors with 20 followers, acknowledged, without and with request_id.

    On a cluster the ceiling of the first is what the store takes of the same statements from a process of its own.
    """
    tell("ceiling: a no-op")
    noop = await _ceiling(bed, seconds)
    figures = _shown("ceiling", noop, None)
    figures.append(figure("start", bed.start_s, "s"))
    figures += [figure(f"memory_{name}", process.memory_mb(), "MB") for name, process in bed.mesh.processes.items()]
    ceiling = noop["rate"]
    if cassandra := bed.mesh.engines.get("cassandra"):
        tell("ceiling: the same statements, bare")
        bare = await _bare_store(f"{cassandra}/{KEYSPACES['post_svc']}", seconds)
        ceiling = bare["rate"]
        figures += [figure("bare_statements", ceiling, "posts/s"), figure("bare_cpu", bare["cpu_us"], "µs/post")]
    draft = post_pb.CreatePostRequest(caption="a post of the bench " * 10, hashtags=["bench"])
    plain = draft.SerializeToString()
    tell("CreatePost")
    created = await _created(bed, [plain] * len(bed.writer_tokens), seconds)
    tell("CreatePost with request_id")
    chance = SystemRandomness()
    named = [
        plain + post_pb.CreatePostRequest(request_id=chance.token_bytes(16).hex()).SerializeToString()
        for _ in range(int(MOST_CREATED_PER_S * (seconds + 1)))
    ]
    with_id = await _created(bed, named, seconds)
    return figures + _shown("create_post", created, ceiling) + _shown("create_post_with_request_id", with_id, ceiling)


async def _created(bed: Testbed, bodies: Sequence[bytes], seconds: float) -> dict[str, Any]:
    tokens = list(islice(cycle(bed.writer_tokens), len(bodies)))
    return await bed.generate(CREATE_POST, bed.requests(bodies, tokens), mode="closed", in_flight=64, seconds=seconds)


async def _bare_store(url: str, seconds: float) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bare_store", url, str(seconds), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(seconds + 60):
        output, _ = await process.communicate()
    measured: dict[str, float] = json.loads(output)
    return measured


BENCHES = {
    "ceiling": Bench("a no-op of the size of a first page, through Envoy", bench_ceiling),
    "feed": Bench("GetFeed: first page, later page, LATEST, latency at 60 % load, cold lists, no cache", bench_feed),
    "overload": Bench("GetFeed offered 1.5 and 3 times what the mesh can serve, and the time after", bench_overload),
    "post": Bench("CreatePost acknowledged, authors with 20 followers", bench_post),
}

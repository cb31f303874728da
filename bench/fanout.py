"""`feedmesh bench fanout`: deliveries beside the bare script, from the store, how soon they show, a backlog, a pair."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import orjson

from bench.fanout_bed import AUTHORS, CLOCK, FOLLOWERS_OF_EACH, FULL, LARGE, LARGEST, FanoutBed, Tell, fanout_bed
from bench.figures import Figure, figure
from bench.worker_pair import bench_worker_pair
from foundation.redis.client import Places
from foundation.redis.slots import Slots, slots_of_numbers
from foundation.timeline.port import CAPACITY, SLACK, Owners
from foundation.timeline.redis import _DELIVER, DELIVERIES_PER_CALL, FEED, TURNS_UNDER_WAY

BACKLOG = 1_000_000
WARM_UP = 300_000
"""Deliveries after which the worker's memory is that of a worker at work."""
ROUNDS = 5
"""Of the ceiling and what is measured against it, in turns: the machine's speed drifts, and medians are compared."""
PER_ROUND = 200_000
STEADY = 0.6
TICK_S = 0.02
LARGE_POSTS = 10


async def bench_fanout(seconds: float, tell: Tell) -> list[Figure]:
    """Everything, in one run."""
    async with fanout_bed(tell) as bed:
        await _bare(bed, 1.0)
        await _drain(bed, WARM_UP // 1_000)
        memory_mib, worker_s, valkey_s = bed.worker_mib(), bed.worker_cpu_s(), bed.valkey_cpu_s()
        tell(f"a backlog of {BACKLOG} deliveries in chunks")
        took = await _drain(bed, BACKLOG // 1_000)
        figures = [
            figure("backlog_drained", took, "s"),
            figure("backlog_memory_grown", bed.worker_mib() - memory_mib, "MiB"),
            figure("deliveries_cpu_worker", (bed.worker_cpu_s() - worker_s) * 1e6 / BACKLOG, "µs/delivery"),
            figure("deliveries_cpu_valkeys", (bed.valkey_cpu_s() - valkey_s) * 1e6 / BACKLOG, "µs/delivery"),
        ]
        tell(f"in turns: the bare script, chunks, and posts of authors with {FOLLOWERS_OF_EACH} followers")
        bare, chunks, posts = [], [], []
        for _ in range(ROUNDS):
            bare.append(await _bare(bed, seconds / ROUNDS))
            chunks.append(PER_ROUND / await _drain(bed, PER_ROUND // 1_000))
            posts.append(PER_ROUND / await _from_the_store(bed))
        ceiling = median(bare)
        figures += [
            figure("bare_script", ceiling, "deliveries/s"),
            figure("deliveries", median(chunks), "deliveries/s", ceiling=ceiling),
            figure("deliveries_e2e", median(posts), "deliveries/s", ceiling=ceiling),
        ]
        steady = median(posts) / FOLLOWERS_OF_EACH
        tell(f"how soon a post shows at {steady * STEADY:.0f} posts a second")
        figures += await _visible(bed, steady * STEADY, seconds)
        tell(f"an author with {LARGE} followers")
        alone = [await _large(bed) for _ in range(LARGE_POSTS)]
        tell(f"the same beside a push to {LARGEST}")
        beside = []
        for _ in range(LARGE_POSTS // 2):
            await bed.log.append([bed.post(bed.largest)[1]])
            beside.append(await _large(bed))
            await bed.drained()
        figures += [
            figure("large_author_alone_p50", float(np.percentile(alone, 50)), "s"),
            figure("large_author_alone_max", max(alone), "s"),
            figure("large_author_beside_largest_p50", float(np.percentile(beside, 50)), "s"),
            figure("large_author_beside_largest_max", max(beside), "s"),
        ]
    return figures + await bench_worker_pair(tell)


async def _bare(bed: FanoutBed, seconds: float) -> float:
    """Deliveries a second of the script alone: its arguments are made before, nothing is read and nothing committed."""
    parts = []
    for start in range(0, FULL, DELIVERIES_PER_CALL):
        owners = bed.readers[start : min(FULL, start + DELIVERIES_PER_CALL)]
        parts.append(_Part(bed, owners, slots_of_numbers(owners)))
    done = 0
    started = CLOCK.monotonic()
    while (took := CLOCK.monotonic() - started) < seconds:
        for start in range(0, len(parts), TURNS_UNDER_WAY):
            await asyncio.gather(*(part.run() for part in parts[start : start + TURNS_UNDER_WAY]))
        done += FULL
    return done / took


@dataclass
class _Part:
    """Owners of one turn, and their decimal text by the first place of each node's part."""

    bed: FanoutBed
    owners: Owners
    slots: Slots
    texts: dict[int, bytes] = field(default_factory=dict)

    async def run(self) -> None:
        """One new post into all of their lists."""
        post_id = self.bed.ids.next()
        common = (CAPACITY, SLACK, FEED + ":{", 0)
        told = await self.bed.redis.run_shares(
            _DELIVER, self.slots, lambda places: (post_id, self._text(places)), common=common
        )
        if any(answer != [0, 0] for _, answer in told):
            raise RuntimeError(f"the bare script failed: {told}")

    def _text(self, places: Places) -> bytes:
        first = int(places[0])
        if first not in self.texts:
            self.texts[first] = orjson.dumps(self.owners[places], option=orjson.OPT_SERIALIZE_NUMPY)
        return self.texts[first]


async def _drain(bed: FanoutBed, chunks: int) -> float:
    """Seconds that so many chunks take from when the worker may begin."""
    bed.hold()
    for start in range(0, chunks, 100):
        await bed.log.append([bed.chunk(place) for place in range(start, min(chunks, start + 100))])
    started = CLOCK.monotonic()
    bed.release()
    await bed.drained()
    return CLOCK.monotonic() - started


async def _from_the_store(bed: FanoutBed) -> float:
    """Seconds that PER_ROUND deliveries take from posts.created on, followers read from graph_svc."""
    posts = PER_ROUND // FOLLOWERS_OF_EACH
    bed.hold()
    await bed.log.append([bed.post(bed.authors[place % AUTHORS])[1] for place in range(posts)])
    started = CLOCK.monotonic()
    bed.release()
    await bed.drained()
    return CLOCK.monotonic() - started


async def _visible(bed: FanoutBed, rate: float, seconds: float) -> list[Figure]:
    """Posts at a steady rate; each is waited for in the list of the last of its author's followers."""
    waits: list[float] = []
    authors = list(bed.authors)

    async def one(posts: Sequence[tuple[int, int]]) -> None:
        acknowledged = CLOCK.monotonic()
        for author, post_id in posts:
            await bed.arrived(post_id, [int(bed.followers_of(author)[-1])])
            waits.append(CLOCK.monotonic() - acknowledged)

    owed, place = 0.0, 0
    started = CLOCK.monotonic()
    async with asyncio.TaskGroup() as waiting:
        while CLOCK.monotonic() - started < seconds:
            due = (CLOCK.monotonic() - started) * rate - owed
            posts = []
            events = []
            for _ in range(int(due)):
                author = authors[place % len(authors)]
                post_id, event = bed.post(author)
                posts.append((author, post_id))
                events.append(event)
                place += 1
            if events:
                owed += len(events)
                await bed.log.append(events)
                # One of those that were appended together is enough: the last.
                waiting.create_task(one(posts[-1:]))
            await asyncio.sleep(TICK_S)
    await bed.drained()
    return [
        figure("visible_rate", owed / seconds, "posts/s", ceiling=rate / STEADY),
        figure("visible_p50", float(np.percentile(waits, 50)) * 1_000, "ms"),
        figure("visible_p99", float(np.percentile(waits, 99)) * 1_000, "ms"),
    ]


async def _large(bed: FanoutBed) -> float:
    """Seconds from a post's acknowledgement to the lists of the last followers of all pages of the large author."""
    post_id, event = bed.post(bed.large)
    await bed.log.append([event])
    acknowledged = CLOCK.monotonic()
    last = bed.followers_of(bed.large)[[*range(999, LARGE, 1_000), LARGE - 1]].tolist()
    await bed.arrived(post_id, last)
    return CLOCK.monotonic() - acknowledged

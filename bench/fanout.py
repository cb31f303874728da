"""`feedmesh bench fanout`: deliveries beside the bare script, from the store, how soon they show, and a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from bench.fanout_bed import AUTHORS, CLOCK, FOLLOWERS_OF_EACH, FULL, LARGE, LARGEST, FanoutBed, Tell, fanout_bed
from bench.figures import Figure, figure
from foundation.redis.client import Places
from foundation.redis.slots import Slots, slots_of_numbers
from foundation.timeline.port import CAPACITY, SLACK, Owners
from foundation.timeline.redis import _DELIVER, DELIVERIES_PER_CALL, FEED, TURNS_UNDER_WAY

BACKLOG = 1_000_000
BEFORE = 300_000
"""Deliveries that warm the worker up, and whose memory is that of a worker at work."""
POSTS = 2_000
STEADY = 0.6
TICK_S = 0.02
LARGE_POSTS = 10


async def bench_fanout(seconds: float, tell: Tell) -> list[Figure]:
    """Everything, in one run."""
    async with fanout_bed(tell) as bed:
        tell("ceiling: the bare script")
        bare = await _bare(bed, seconds)
        tell(f"chunks of {BACKLOG} deliveries")
        figures, rate = await _deliveries(bed)
        bare = max(bare, await _bare(bed, seconds))
        figures = [
            figure("bare_script", bare, "deliveries/s"),
            figure("deliveries", rate, "deliveries/s", ceiling=bare),
            *figures,
        ]
        tell(f"{POSTS} posts of authors with {FOLLOWERS_OF_EACH} followers")
        more, steady = await _from_the_store(bed, bare)
        figures += more
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
        return [
            *figures,
            figure("large_author_alone_p50", float(np.percentile(alone, 50)), "s"),
            figure("large_author_alone_max", max(alone), "s"),
            figure("large_author_beside_largest_p50", float(np.percentile(beside, 50)), "s"),
            figure("large_author_beside_largest_max", max(beside), "s"),
        ]


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


async def _deliveries(bed: FanoutBed) -> tuple[list[Figure], float]:
    """A backlog of chunks, drained by one worker."""
    await _drain(bed, BEFORE // 1_000)
    memory_mib = bed.worker_mib()
    worker_s, valkey_s = bed.worker_cpu_s(), bed.valkey_cpu_s()
    took = await _drain(bed, BACKLOG // 1_000)
    figures = [
        figure("backlog_drained", took, "s"),
        figure("backlog_memory_grown", bed.worker_mib() - memory_mib, "MiB"),
        figure("deliveries_cpu_worker", (bed.worker_cpu_s() - worker_s) * 1e6 / BACKLOG, "µs/delivery"),
        figure("deliveries_cpu_valkeys", (bed.valkey_cpu_s() - valkey_s) * 1e6 / BACKLOG, "µs/delivery"),
    ]
    return figures, BACKLOG / took


async def _drain(bed: FanoutBed, chunks: int) -> float:
    """Seconds that so many chunks take from when the worker may begin."""
    bed.hold()
    for start in range(0, chunks, 100):
        await bed.log.append([bed.chunk(place) for place in range(start, min(chunks, start + 100))])
    started = CLOCK.monotonic()
    bed.release()
    await bed.drained()
    return CLOCK.monotonic() - started


async def _from_the_store(bed: FanoutBed, bare: float) -> tuple[list[Figure], float]:
    """Figures, and posts a second."""
    events = [bed.post(author)[1] for _ in range(POSTS // AUTHORS) for author in bed.authors]
    await bed.log.append(events[:AUTHORS])
    await bed.drained()
    worker_s, valkey_s = bed.worker_cpu_s(), bed.valkey_cpu_s()
    bed.hold()
    await bed.log.append([bed.post(author)[1] for _ in range(POSTS // AUTHORS) for author in bed.authors])
    started = CLOCK.monotonic()
    bed.release()
    await bed.drained()
    rate = POSTS / (CLOCK.monotonic() - started)
    deliveries = POSTS * FOLLOWERS_OF_EACH
    return [
        figure("deliveries_e2e", rate * FOLLOWERS_OF_EACH, "deliveries/s", ceiling=bare),
        figure("deliveries_e2e_cpu_worker", (bed.worker_cpu_s() - worker_s) * 1e6 / deliveries, "µs/delivery"),
        figure("deliveries_e2e_cpu_valkeys", (bed.valkey_cpu_s() - valkey_s) * 1e6 / deliveries, "µs/delivery"),
    ], rate


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

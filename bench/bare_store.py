"""The ceiling of CreatePost on Cassandra: its statements from a process that does nothing else.

`python -m bench.bare_store URL SECONDS` prints one JSON object: posts written a second, and the CPU of each.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

import uvloop

from foundation.cql.address import CqlAddress
from foundation.cql.session import open_cql
from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes
from post_svc.adapters import posts_cql
from post_svc.model import Draft, NewPost

IN_FLIGHT = 64
WORKER = 1_000
"""Ids of nobody else in a mesh that is measured."""


async def _measure(url: str, seconds: float) -> dict[str, float]:
    clock = SystemClock()
    ids = Snowflakes(clock, worker=WORKER)
    draft = Draft("a post of the bench " * 10, ("bench",))
    async with open_cql(CqlAddress.parse(url)) as cql:
        written = 0
        until = clock.monotonic() + seconds

        async def write() -> None:
            nonlocal written
            while clock.monotonic() < until:
                post = NewPost(ids.next(), WORKER, draft)
                event = posts_cql._created_event(post, post.post_id)  # noqa: SLF001 - the very statements
                await cql.together([posts_cql.creation(post, post.post_id, event)])
                written += 1

        began, used = clock.monotonic(), _cpu()
        await asyncio.gather(*(write() for _ in range(IN_FLIGHT)))
        took, used = clock.monotonic() - began, _cpu() - used
    return {"rate": written / took, "cpu_us": used * 1e6 / max(1, written)}


def _cpu() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure(sys.argv[1], float(sys.argv[2])))))

"""The load generator, a process of its own: `python -m bench.loadgen < plan.json > result.json`.

Closed loop finds the capacity: so many requests in flight, each answered one replaced. Open loop measures latency at a
fixed rate: requests leave when the schedule says, however slow the answers, and latency counts from that moment. The
rate may change on the way (`then`), and what became of the requests may be told for each second (`by_second`).
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import resource
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

from bench.http2 import RESOURCE_EXHAUSTED, Http2Connection, edge_limit, header_block
from foundation.rpc.http2 import grpc_body

ZIPF = 0.8
"""Exponent of who sends how much."""
SEED = 1
SHARE_CAP = 0.002
"""No user sends more than this share of all requests: the edge allows each 1,000 a minute."""
DRAIN_S = 5.0
WARMUP_S = 1.0
SEQUENCE = 100_003
"""After so many requests users take turns in the same order again."""
TURN_S = 0.002
"""Open loop: requests that are due within it leave together, late by as much at most, which counts as their latency."""


@dataclass
class Outcome:
    """What was counted."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    rejected: int = 0
    answer_bytes: int = 0
    ends: list[tuple[float, float]] = field(default_factory=list)
    """When each request should have left, since measuring began, and its latency; -1 where there was no answer."""


def user_sequence(users: int, count: int, exponent: float, seed: int) -> list[int]:
    """Which user sends each request: Zipf, with the most active capped at SHARE_CAP."""
    weights = np.arange(1, users + 1, dtype=np.float64) ** -exponent
    weights /= weights.sum()
    weights = np.minimum(weights, max(SHARE_CAP, 1.5 / users))
    weights /= weights.sum()
    chosen: list[int] = np.random.default_rng(seed).choice(users, size=count, p=weights).tolist()
    return chosen


def busiest(requests: int, users: int) -> int:
    """How many of so many requests the most active of *users* sends, unless a plan says otherwise."""
    return _busiest(user_sequence(users, SEQUENCE, ZIPF, SEED), 0, requests)


def _busiest(sequence: list[int], first: int, last: int) -> int:
    """Of the requests from *first* to before *last*, *sequence* over and over."""
    rounds, rest = divmod(last - first, len(sequence))
    counts = np.bincount(sequence) * rounds
    some = np.bincount(np.roll(sequence, -first)[:rest], minlength=len(counts))
    return int((counts + some).max())


class Generator:
    """Sends the requests of one plan."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        host, port = plan["address"].rsplit(":", 1)
        self._host, self._port = host, int(port)
        self._requests = [
            (
                header_block(plan["path"], plan["address"], request["token"]),
                grpc_body(base64.b64decode(request["body"])),
            )
            for request in plan["requests"]
        ]
        self._sequence = user_sequence(len(self._requests), SEQUENCE, plan.get("zipf", ZIPF), plan.get("seed", SEED))
        self._sent = plan.get("skip", 0)
        self._connections: list[Http2Connection] = []
        self._outcome = Outcome()
        self._measuring = False
        self._more = False

    async def run(self) -> dict[str, Any]:
        """Warm up, measure, report."""
        loop = asyncio.get_running_loop()
        for _ in range(self._plan.get("connections", 4)):
            _, connection = await loop.create_connection(lambda: Http2Connection(self._done), self._host, self._port)
            self._connections.append(connection)
        self._loop = loop
        if self._plan["mode"] == "closed":
            await self._closed()
        else:
            await self._open()
        for connection in self._connections:
            connection.close()
        return self._report()

    def _next(self, intended: float) -> None:
        block, body = self._requests[self._sequence[self._sent % len(self._sequence)]]
        self._connections[self._sent % len(self._connections)].send(block, body, intended)
        self._sent += 1

    def _done(self, intended: float, status: int, size: int) -> None:
        now = self._loop.time()
        if self._measuring and intended >= self._began:
            outcome = self._outcome
            if status == 0:
                outcome.latencies.append(now - intended)
                outcome.answer_bytes += size
            elif status == RESOURCE_EXHAUSTED:
                outcome.rejected += 1
            else:
                outcome.failed += 1
            outcome.ends.append((intended - self._began, now - intended if status == 0 else -1.0))
        if self._more:
            self._next(now)

    def _start_measuring(self) -> None:
        self._measuring = True
        self._began = self._loop.time()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_began = usage.ru_utime + usage.ru_stime

    def _stop_measuring(self) -> None:
        self._ended = self._loop.time()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_ended = usage.ru_utime + usage.ru_stime

    async def _closed(self) -> None:
        self._more = True
        for _ in range(self._plan["in_flight"]):
            self._next(self._loop.time())
        await asyncio.sleep(self._plan.get("warmup_s", WARMUP_S))
        self._start_measuring()
        await asyncio.sleep(self._plan["seconds"])
        self._stop_measuring()
        self._measuring = False
        self._more = False
        await self._drain()

    async def _open(self) -> None:
        gap = 1.0 / self._plan["rate"]
        warmup = self._plan.get("warmup_s", WARMUP_S)
        begin = self._loop.time() + 0.01
        due = begin
        turn = begin + warmup + self._plan["seconds"]
        then_rate, then_s = self._plan.get("then", (self._plan["rate"], 0.0))
        end = turn + then_s
        while due < end:
            if due >= turn:
                gap = 1.0 / then_rate
            now = self._loop.time()
            if not self._measuring and due >= begin + warmup:
                self._start_measuring()
                self._began = due
            while due <= now and due < (turn if due < turn else end):
                self._next(due)
                due += gap
            await asyncio.sleep(max(TURN_S, due - self._loop.time()))
        self._stop_measuring()
        await self._drain()

    async def _drain(self) -> None:
        deadline = self._loop.time() + DRAIN_S
        while any(connection.in_flight for connection in self._connections) and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        if self._measuring:
            self._outcome.failed += sum(connection.in_flight for connection in self._connections)

    def _report(self) -> dict[str, Any]:
        outcome = self._outcome
        latencies = np.array(outcome.latencies or [0.0]) * 1000
        seconds = self._ended - self._began
        answered = len(outcome.latencies)
        return {
            "rate": answered / seconds,
            "answered": answered,
            "failed": outcome.failed,
            "rejected": outcome.rejected,
            "edge_limit": max(edge_limit(connection.refusal) for connection in self._connections),
            "seconds": seconds,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "max_ms": float(latencies.max()),
            "answer_bytes": outcome.answer_bytes / max(1, answered),
            "generator_us": (self._cpu_ended - self._cpu_began) * 1e6 / max(1, answered),
            "sent": self._sent,
            "busiest": _busiest(self._sequence, self._plan.get("skip", 0), self._sent),
            "by_second": self._by_second() if self._plan.get("by_second") else [],
        }

    def _by_second(self) -> list[dict[str, float]]:
        """Of each second's requests: how many were sent, how many answered, the p99 of those."""
        seconds: list[list[float]] = [[] for _ in range(int(self._ended - self._began) + 1)]
        for began, latency in self._outcome.ends:
            seconds[min(int(began), len(seconds) - 1)].append(latency)
        told = []
        for latencies in seconds:
            answered = [latency for latency in latencies if latency >= 0]
            p99_ms = float(np.percentile(answered, 99)) * 1000 if answered else 0.0
            told.append({"sent": len(latencies), "answered": len(answered), "p99_ms": p99_ms})
        return told


def main() -> None:
    """Read the plan, run it, print the result."""
    gc.disable()
    print(json.dumps(uvloop.run(Generator(json.load(sys.stdin)).run())))


if __name__ == "__main__":
    main()

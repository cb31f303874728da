"""How many RPCs a server takes at once, and which it refuses first: decided before anything of a request is read.

The limit follows the event loop's lag, not service times. In a process with one loop a standing lag is the queue for
its CPU, whatever the RPCs are; a service time also grows when a dependency is slow, and then refusing helps nobody: the
answer degrades within its deadline, and `most` bounds what waits meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from statistics import median

from foundation.background import in_background
from foundation.model.clock import Clock

LEAST = 10
"""The limit never falls below: enough to keep one loop busy while some of them wait for others.

Pages that are taken when 1.5 and 3 times what can be served is offered, embedded mesh, three runs with 10 places and
two with 20 in turns (a machine whose speed halved within minutes): p99 59, 53, 170 and 60, 60, 77 ms; with 20 places
103, 94 and 107, 98 ms. Served of the peak: 86, 92, 59 and 80, 85, 60 %; with 20 places 78, 80 and 74, 91 %. 6 places
were no better.
"""
CALM = 64
"""Up to here the limit grows by itself, beyond only while it is used: a burst after a quiet hour stays small."""
TARGET_LAG_S = 0.0025
"""A median above this is overload. First pages (2 cores, closed loop): 1 to 2 ms with 16 in flight, 10 ms with 90."""
GREATEST_CUT = 0.7
"""One step leaves at least this part of the limit."""
LAGS_PER_STEP = 5
"""The median of so many counts: a burst is over within them, a queue is not."""
PROBE_EVERY_S = 0.02


class Priority(IntEnum):
    """What an RPC is worth when not all can be served; the greatest number is refused first."""

    CRITICAL = 0
    """What people did and would have to do again, or what protects them: a post, a delete, a block."""
    USER = 1
    """What somebody waits for."""
    PREFETCH = 2
    """What can wait: later pages, counts of new posts."""
    BULK = 3
    """Nobody waits: imports, backfills."""


SHARES = {Priority.CRITICAL: 1.0, Priority.USER: 0.9, Priority.PREFETCH: 0.75, Priority.BULK: 0.5}
"""The part of the limit up to which a class is taken; the rest is kept for those above it."""


class Admission:
    """The places of one server."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._borders: dict[Priority, int] = {}
        self._in_flight = 0
        self._peak = 0
        self._lags: list[float] = []
        self._draw_borders()

    @property
    def limit(self) -> int:
        """RPCs that are taken at once, now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Places taken."""
        return self._in_flight

    def admits(self, priority: Priority) -> bool:
        """True while one more of *priority* would be taken."""
        return self._in_flight < self._borders[priority]

    def enter(self, priority: Priority) -> bool:
        """Take a place; False when there is none for *priority*. Whoever got one leaves, whatever happens."""
        if self._in_flight >= self._borders[priority]:
            return False
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._in_flight -= 1

    def observe(self, lag_s: float) -> None:
        """The loop was *lag_s* late. Every LAGS_PER_STEP observations the limit takes a step.

        It is cut only when this server used at least half of it: a loop that others hold up is not relieved by refusing
        here. An unused limit does not grow beyond CALM either.
        """
        self._lags.append(lag_s)
        if len(self._lags) < LAGS_PER_STEP:
            return
        standing_s = median(self._lags)
        self._lags.clear()
        used = self._peak * 2 >= self._limit
        self._peak = self._in_flight
        if standing_s > TARGET_LAG_S:
            if used:
                self._limit = max(LEAST, self._limit * max(GREATEST_CUT, TARGET_LAG_S / standing_s))
        elif used or self._limit < CALM:
            self._limit += 1
        self._limit = min(self._limit, self._most)
        self._draw_borders()

    def _draw_borders(self) -> None:
        # Rounded up: every class has a place in an empty server.
        self._borders = {priority: -int(-int(self._limit) * share // 1) for priority, share in SHARES.items()}


def probing_lag(clock: Clock, observe: Callable[[float], None]) -> AbstractAsyncContextManager[None]:
    """Tell *observe* fifty times a second how long something that became ready waited for its turn of the loop."""

    async def probe() -> None:
        while True:
            due = clock.monotonic() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            # The timer was late by what was left of the turn; what became ready before us is the turn after it.
            await asyncio.sleep(0)
            observe(clock.monotonic() - due)

    return in_background(probe(), name="lag probe")

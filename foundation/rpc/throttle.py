"""Stops asking a service that refuses or does not answer, as far as it does so: the caller's half of admission.

The share of calls that is refused here is that of the book *Site Reliability Engineering* (chapter 21): the more calls
are made than TRUST times what the service takes, the more of them are not sent. So a service that is down or overloaded
is neither buried under calls nor waited for, and callers fall back at once.
"""

from __future__ import annotations

from types import TracebackType

from foundation.errors import DeadlineExceeded, Exhausted, Unavailable
from foundation.model.clock import Clock, Randomness

TRUST = 2.0
"""Calls per call that the service takes: a service that takes half of them is asked as before."""
BUCKETS = 10
BUCKET_S = 0.3
"""What is older than BUCKETS of these is forgotten. Trust in a service that is well again doubles in half that time, so
that all calls are sent after two to three windows; the book's two minutes would keep callers away that long."""
FEWEST = 20
"""So few calls within the window bury nobody: all are sent."""
GREATEST = 0.9
"""The rest is always sent, and finds the service when it is back."""

_AGAINST = (Unavailable, Exhausted, DeadlineExceeded)
"""What says that the service cannot take more; every other answer is one."""


class Throttle:
    """What became of the calls to one target lately. `with throttle:` around each call.

    Entering counts the call before it is sent, and raises Unavailable when it is not to be sent; such calls count too.
    A call in flight is held to succeed until it is known: else the first calls after a quiet time would be refused for
    having no answer yet. A cancelled one is forgotten.
    """

    def __init__(self, target: str, clock: Clock, randomness: Randomness) -> None:
        self._target = target
        self._clock = clock
        self._randomness = randomness
        self._calls = [0] * BUCKETS
        self._taken = [0] * BUCKETS
        self._in_flight = 0
        self._now = 0

    def refused_share(self) -> float:
        """The part of the next calls that is not sent, 0 to GREATEST."""
        self._turn()
        calls = sum(self._calls)
        if calls < FEWEST:
            return 0.0
        taken = sum(self._taken) + self._in_flight
        return min(GREATEST, max(0.0, (calls - TRUST * taken) / (calls + 1)))

    def __enter__(self) -> None:
        share = self.refused_share()
        place = self._now % BUCKETS
        self._calls[place] += 1
        if share and int.from_bytes(self._randomness.token_bytes(2)) < share * 65_536:
            raise Unavailable("UNAVAILABLE", f"{self._target} is not asked: it took too few of the last calls")
        self._in_flight += 1

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._turn()
        self._in_flight -= 1
        place = self._now % BUCKETS
        if kind is None or (issubclass(kind, Exception) and not issubclass(kind, _AGAINST)):
            self._taken[place] += 1
        elif not issubclass(kind, Exception):
            self._calls[place] = max(0, self._calls[place] - 1)

    def _turn(self) -> None:
        now = int(self._clock.monotonic() / BUCKET_S)
        for passed in range(max(self._now + 1, now - BUCKETS + 1), now + 1):
            self._calls[passed % BUCKETS] = self._taken[passed % BUCKETS] = 0
        self._now = now

"""Time and randomness as ports, so that tests and simulations own them; the only direct use of either."""

from __future__ import annotations

import os
import time
from typing import NewType, Protocol

Millis = NewType("Millis", int)
"""Milliseconds since 1970-01-01 UTC."""

DAY_MS = 86_400_000


class Clock(Protocol):
    """Wall time for what is stored, monotonic time for what is measured."""

    def now_ms(self) -> Millis:
        """Wall clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)

    monotonic = staticmethod(time.monotonic)
    """Without a call of ours around it: every id that is minted asks."""


class Randomness(Protocol):
    """Unpredictable bytes: nonces, session ids, tokens."""

    def token_bytes(self, n: int) -> bytes:
        """*n* bytes."""
        ...


class SystemRandomness:
    """The kernel's generator, asked for POOL_BYTES at a time: a system call costs more than a page's nonces are worth.

    For one process: a child that is forked must make its own.
    """

    POOL_BYTES = 4_096

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0

    def token_bytes(self, n: int) -> bytes:
        end = self._used + n
        if end > len(self._pool):
            self._pool = os.urandom(max(n, self.POOL_BYTES))
            self._used, end = 0, n
        taken = self._pool[self._used : end]
        self._used = end
        return taken

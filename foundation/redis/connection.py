"""One multiplexed connection to one node: many callers, one socket, replies in order, one future per batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from foundation.errors import Unavailable

MAX_PENDING = 4_096
"""Batches in flight on one connection; one more is refused."""
TICK_S = 0.02
"""How coarse timeouts are: one timer per connection looks at all batches, instead of a timer per batch."""
HANG_UP_S = 1.0
"""A node that owes replies and sent nothing for so long gets a new connection: the path to it may be gone."""

Outcome = list[Any] | Unavailable
"""The replies of a batch (error replies are values), or why there are none. Failures are results, not exceptions: a
batch whose caller was cancelled has nobody to retrieve an exception."""


class Batch:
    """Commands written together, and the future of their replies."""

    __slots__ = ("count", "deadline", "future", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[Outcome], count: int, *, sent_at: float, deadline: float) -> None:
        self.future = future
        self.count = count
        self.sent_at = sent_at
        self.deadline = deadline
        self.replies: list[Any] = []


class Connection(asyncio.Protocol):
    """Writes batches, gathered per turn of the loop, and hands out replies by position.

    A cancelled or timed-out caller leaves its place in the queue: its replies are read and dropped, so nobody ever gets
    somebody else's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._name = name
        self._lost = lost
        """Called when the connection is gone, by whoever's doing."""
        self._reader = hiredis.Reader()
        self._pending: deque[Batch] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._excused = False
        self._heard_at = 0.0
        self._answered_at = 0.0
        self.silent = False
        """Nothing that can be read was answered for as long as a caller would wait. Until something is, the next ones
        fail at once: a request that reads the node many times waits for it once, and others not at all."""

    @property
    def usable(self) -> bool:
        """Connected, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not self._pending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # asyncio hands a Transport to a Protocol

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, deque()
        for batch in pending:
            if not batch.future.done():
                batch.future.set_result(self._unavailable("lost its connection"))
        self._lost()

    def send(self, packed: bytes, count: int, deadline: float) -> asyncio.Future[Outcome]:
        """Write *count* packed commands to a usable connection; the future brings as many replies, or Unavailable.

        It is Unavailable from *deadline* on (loop time, up to TICK_S later), when the connection is lost, and at once
        while the node is silent.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self.silent:
            future.set_result(self._unavailable("is silent"))
            return future
        if len(self._pending) >= MAX_PENDING or self._transport is None:
            future.set_result(self._unavailable("has too many commands in flight"))
            return future
        now = self._loop.time()
        if not self._pending:
            self._heard_at = now  # it owed nothing until now
            if self._timer is None:
                self._watch(TICK_S)
        self._pending.append(Batch(future, count, sent_at=now, deadline=deadline))
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        return future

    def close(self) -> None:
        """Hang up; what is in flight fails."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        gets = self._reader.gets
        try:
            self._reader.feed(data)
            while self._pending:
                batch = self._pending[0]
                replies = batch.replies
                while len(replies) < batch.count:
                    reply = gets()
                    if reply is False:
                        return
                    replies.append(reply)
                self._pending.popleft()
                self._answered_at = self._heard_at
                self.silent = False
                if not batch.future.done():
                    batch.future.set_result(replies)
        except hiredis.ProtocolError:
            self.silent = True
            self.close()  # what follows cannot be told apart any more

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def _watch(self, delay_s: float) -> None:
        self._timer_due = self._loop.time() + delay_s
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._pending:
            return
        now = self._loop.time()
        if now - self._timer_due > TICK_S and not self._excused:
            # This process was busy, not the node: it gets one more tick to write and read before anybody is given up.
            self._excused = True
            self._watch(TICK_S)
            return
        self._excused = False
        for batch in self._pending:
            if batch.deadline <= now and not batch.future.done():
                batch.future.set_result(self._unavailable("did not answer in time"))
                self.silent = self.silent or self._answered_at <= batch.sent_at
        if now - self._heard_at > HANG_UP_S and self._pending[0].deadline <= now:
            self.close()
        else:
            self._watch(TICK_S)

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable("CACHE_UNAVAILABLE", f"the cache node {self._name} {what}", node=self._name)

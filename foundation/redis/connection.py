"""One multiplexed connection to one node: many callers, one socket, replies in order, one future per batch."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis

from foundation.errors import Unavailable

MAX_PENDING = 4_096
"""Batches in flight on one connection; one more is refused."""


class Batch:
    """Commands written together, and the future of their replies."""

    __slots__ = ("count", "future", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, sent_at: float) -> None:
        self.future = future
        self.count = count
        self.replies: list[Any] = []
        self.sent_at = sent_at


class Connection(asyncio.Protocol):
    """Writes batches, gathered per turn of the loop, and hands out replies by position.

    A cancelled or timed-out caller leaves its place in the queue: its replies are read and dropped, so nobody ever gets
    somebody else's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._reader = hiredis.Reader()
        self._pending: deque[Batch] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Connected, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        pending, self._pending = self._pending, deque()
        for batch in pending:
            if not batch.future.done():
                batch.future.set_exception(self._silent("lost its connection"))

    def send(self, packed: bytes, count: int, timeout_s: float) -> asyncio.Future[list[Any]]:
        """Write *count* packed commands; the future brings as many replies, error replies as values.

        It fails with Unavailable after *timeout_s* or when the connection is lost.
        """
        if len(self._pending) >= MAX_PENDING:
            raise self._silent("has too many commands in flight")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        batch = Batch(future, count, self._loop.time())
        self._pending.append(batch)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        timer = self._loop.call_later(timeout_s, self._expire, batch)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def close(self) -> None:
        """Hang up; what is in flight fails."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def _expire(self, batch: Batch) -> None:
        if batch.future.done():
            return
        batch.future.set_exception(self._silent("did not answer in time"))
        if self._pending and self._pending[0] is batch and not batch.replies:
            # The oldest batch got not one reply: a new connection recovers sooner than this one.
            self.close()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets = self._reader.gets
        while self._pending:
            batch = self._pending[0]
            replies = batch.replies
            while len(replies) < batch.count:
                reply = gets()
                if reply is False:
                    return
                replies.append(reply)
            self._pending.popleft()
            if not batch.future.done():
                batch.future.set_result(replies)

    def _silent(self, what: str) -> Unavailable:
        return Unavailable("CACHE_UNAVAILABLE", f"the cache node {self._name} {what}", node=self._name)

"""Calls from one service to another: the mesh's key, a deadline on every call, domain errors back, a throttle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpc import aio

from foundation.model.clock import SystemClock, SystemRandomness
from foundation.rpc.auth import INTERNAL_HEADER
from foundation.rpc.deadlines import timeout
from foundation.rpc.errors import error_of
from foundation.rpc.throttle import Throttle

Response = TypeVar("Response", bound=Message)

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest request or answer between services; the edge allows callers far less."""


class InternalChannel:
    """A connection to one service of the mesh. Made by internal_channel."""

    def __init__(self, channel: aio.Channel, key: str, throttle: Throttle) -> None:
        self.grpc = channel
        """For generated stubs."""
        self._metadata = ((INTERNAL_HEADER, key),)
        self._throttle = throttle

    async def call(
        self, method: aio.UnaryUnaryMultiCallable[Any, Response], request: Message, cap_s: float
    ) -> Response:
        """The answer of a unary RPC within *cap_s* and the current deadline. Raises DomainError."""
        left_s = timeout(cap_s)
        with self._throttle:
            try:
                return await method(request, timeout=left_s, metadata=self._metadata)
            except aio.AioRpcError as failure:
                raise error_of(failure) from failure

    async def stream(
        self, method: aio.UnaryStreamMultiCallable[Any, Response], request: Message, cap_s: float
    ) -> AsyncIterator[Response]:
        """The answers of a server stream within *cap_s* in all. Raises DomainError."""
        left_s = timeout(cap_s)
        with self._throttle:
            answers = method(request, timeout=left_s, metadata=self._metadata)
            try:
                async for answer in answers:
                    yield answer
            except aio.AioRpcError as failure:
                raise error_of(failure) from failure
            finally:
                answers.cancel()


@asynccontextmanager
async def internal_channel(target: str, key: str) -> AsyncIterator[InternalChannel]:
    """A channel to *target* ("host:port"); it connects at the first call and reconnects by itself."""
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    async with aio.insecure_channel(target, options=options) as channel:
        yield InternalChannel(channel, key, Throttle(target, SystemClock(), SystemRandomness()))

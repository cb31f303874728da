"""Recommender over rank_svc: wishes wait in a bounded queue and are told one at a time, off the request's path."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from feedmesh.rank.v1 import rank_service_pb2 as pb

from foundation.background import in_background
from foundation.errors import DomainError
from foundation.rpc.unary import UnaryChannel

REQUEST_RECOMMENDATIONS = "/feedmesh.rank.v1.RankService/RequestRecommendations"
MAX_WAITING = 1_000
"""One more is dropped: the viewer's next head wishes again."""
TIMEOUT_S = 0.5
PAUSE_S = 1.0
"""After a failure: ranking goes to the same service, and shall not be throttled for it."""


class GrpcRecommender:
    """feed_svc.ports.Recommender."""

    def __init__(self, channel: UnaryChannel, *, timeout_s: float = TIMEOUT_S, pause_s: float = PAUSE_S) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._waiting: dict[int, None] = {}
        self._wished = asyncio.Event()

    def wish(self, viewer_id: int) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting[viewer_id] = None
            self._wished.set()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Wishes are told while this is open."""
        return in_background(self._tell(), name="recommender")

    async def _tell(self) -> None:
        while True:
            await self._wished.wait()
            self._wished.clear()
            while self._waiting:
                viewer_id = next(iter(self._waiting))
                del self._waiting[viewer_id]
                request = pb.RequestRecommendationsRequest(user_id=viewer_id)
                try:
                    await self._channel.call(REQUEST_RECOMMENDATIONS, request.SerializeToString(), self._timeout_s)
                except DomainError:
                    # Heads are made without; the next one of this viewer wishes again.
                    await asyncio.sleep(self._pause_s)

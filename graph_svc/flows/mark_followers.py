"""The marks on follows are brought to the authors' tiers, and readers are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graph_svc.ports import ReadModels, Tiers

TOLD_AT_ONCE = 100
"""Viewer records in one round: each may hold thousands of follows, and a node may be silent for 200 ms only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFollowers:
    """Idempotent: on return the marks are durable and no reader has an older viewer record."""

    tiers: Tiers
    read_models: ReadModels

    async def __call__(self, follows: Sequence[tuple[int, int]]) -> None:
        """Of (author, follower) pairs. Raises Unavailable, DeadlineExceeded: repeat it."""
        told = await self.tiers.mark(follows)
        for start in range(0, len(told), TOLD_AT_ONCE):
            await self.read_models.tell_viewers(told[start : start + TOLD_AT_ONCE])

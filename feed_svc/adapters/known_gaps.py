"""Gaps as this process knows them: read once a second, and which viewers' timelines were mended lately."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from feed_svc.model import NO_GAPS, GapsAbove
from foundation.model.clock import Clock
from foundation.timeline.port import Gap, Gaps

KEPT_S = 1.0
"""Age up to which what was read is taken for what there is: a post of a growing gap shows so much later at most."""
MENDED_FOR_S = 60.0
"""A mended timeline is mended again after this: the cache may have lost what was written."""
VIEWERS = 100_000
"""Viewers remembered; the one mended longest ago goes first."""


class KnownGaps:
    """feed_svc.ports.OpenGaps."""

    def __init__(self, gaps: Gaps, clock: Clock) -> None:
        self._gaps = gaps
        self._clock = clock
        self._known: Sequence[Gap] = ()
        self._state = 0
        """Of all known gaps."""
        self._read_at = float("-inf")
        self._one_reader = asyncio.Lock()
        self._mended: OrderedDict[int, tuple[float, int]] = OrderedDict()

    async def above(self, viewer_id: int, floor: int) -> GapsAbove:
        if self._clock.monotonic() - self._read_at >= KEPT_S:
            await self._read()
        if not self._known or self._known[0].to_id <= floor:
            return NO_GAPS
        mended_at, state = self._mended.get(viewer_id, (float("-inf"), 0))
        if state == self._state and self._clock.monotonic() - mended_at < MENDED_FOR_S:
            return NO_GAPS
        return GapsAbove([gap for gap in self._known if gap.to_id > floor], self._state)

    def mended(self, viewer_id: int, state: int) -> None:
        self._mended[viewer_id] = (self._clock.monotonic(), state)
        self._mended.move_to_end(viewer_id)
        if len(self._mended) > VIEWERS:
            self._mended.popitem(last=False)

    async def _read(self) -> None:
        async with self._one_reader:
            now = self._clock.monotonic()
            if now - self._read_at >= KEPT_S:
                self._known = await self._gaps.read()
                self._state = hash(tuple((gap.to_id, gap.state) for gap in self._known))
                self._read_at = now

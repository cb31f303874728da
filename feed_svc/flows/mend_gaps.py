"""What a fan-out under pressure left to readers: found in `author_posts`, shown, and put into the list (rule 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Degraded, Stretch
from feed_svc.ports import AuthorPosts, OpenGaps
from feed_svc.stages.walk import walk_down
from foundation.errors import Unavailable
from foundation.rpc.deadlines import timeout
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY, Gap, Pushed, Timelines


@dataclass(frozen=True, slots=True, kw_only=True)
class MendGaps:
    """Each reader mends their own list when they come: no bulk rebuild, no herd."""

    gaps: OpenGaps
    author_posts: AuthorPosts
    timelines: Timelines
    timeout_s: float

    async def wanted(self, viewer_id: int) -> bool:
        """Whether there may be something to mend in the viewer's list: then it is needed whole."""
        try:
            return bool((await self.gaps.above(viewer_id, 0)).gaps)
        except Unavailable:
            return True

    async def __call__(self, viewer_id: int, home: OpenedHome, journal: Journal) -> OpenedHome:
        """The home with what its list lacks in gaps above its floor.

        Where that could not be read in time it says FEED_PARTIAL, and the next read tries again.
        """
        floor = max(home.floor, home.oldest_id)
        try:
            gaps, state = await self.gaps.above(viewer_id, floor)
        except Unavailable:
            return replace(home, reasons=home.reasons | {Degraded.FEED_PARTIAL})
        if not gaps:
            return home
        with journal.stage("gaps") as stage:
            left = await self._left(viewer_id, home, gaps, floor)
            lacking = [*{*left.ids, *left.loose} - {*home.ids}]
            stage.count = len(lacking)
            if left.floor > floor:
                # More than a list holds, and a part of it would leave a hole above its floor that nobody knows of: the
                # list is forgotten, and the next read builds it anew.
                with suppress(Unavailable):
                    await self.timelines.unlink([viewer_id])
            elif not left.missing and await self._written(viewer_id, lacking) and not home.part:
                self.gaps.mended(viewer_id, state)
            ids = sorted((post_id for post_id in (*home.ids, *lacking) if post_id > left.floor), reverse=True)
            reasons = home.reasons | {Degraded.FEED_PARTIAL} if left.missing else home.reasons
            return replace(home, ids=ids, floor=max(home.floor, left.floor), reasons=reasons)

    async def _left(self, viewer_id: int, home: OpenedHome, gaps: Sequence[Gap], floor: int) -> Stretch:
        """What followees wrote within *gaps*, newest first, above *floor*; above a greater one where that is enough."""
        everyone = [viewer_id, *home.viewer.follows]
        ids: list[int] = []
        for gap in gaps:
            after_id = max(gap.from_id - 1, floor)
            try:
                async with asyncio.timeout(timeout(self.timeout_s)):
                    found = await walk_down(
                        self.author_posts,
                        everyone,
                        before_id=gap.to_id + 1,
                        after_id=after_id,
                        wanted=CAPACITY,
                        hot=home.viewer.supers,
                    )
            except TimeoutError:
                return Stretch(ids, floor, missing=True)
            ids += found.ids
            if found.missing:
                return Stretch(ids, floor, missing=True, loose=found.loose)
            if found.floor > after_id:
                return Stretch(ids, found.floor)
        return Stretch(ids, floor)

    async def _written(self, viewer_id: int, post_ids: list[int]) -> bool:
        try:
            outcome = await self.timelines.push_each([(viewer_id, post_id) for post_id in sorted(post_ids)])
        except Unavailable:
            return False
        return all(pushed is Pushed.DONE for pushed in outcome)

"""The fence: what was hidden within the last hour, known to this process from the log, whatever Redis has forgotten.

A tombstone or a viewer record is written before a delete or block is acknowledged, but to one node; a failover may lose
it, and an old card may come back for as long as cards live. Both live an hour at most: so does what the fence remembers
(rule 6).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from feed_svc.model import Home, Records, Session
from feed_svc.ports import Homes, Shelf
from foundation.model.clock import Clock
from foundation.timeline.port import CAPACITY
from foundation.viewers import ViewerRecord
from foundation.visibility import PostState

REMEMBERED_S = 3_900
"""An hour, as long as cards and viewer records live, and what clocks may differ."""
MOST = 2_000_000
"""Posts, and pairs of people, that are remembered: about 150 bytes each. More within the hour push out the oldest."""


class MemoryFence:
    """feed_svc.ports.Fence."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deleted: OrderedDict[int, float] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], tuple[float, int, bool]] = OrderedDict()
        """(blocker, blocked) to when that was heard, the change's version, and whether the block stands."""
        self._blocked_with: dict[int, set[int]] = {}

    def post_deleted(self, post_id: int) -> None:
        self._deleted[post_id] = self._clock.monotonic()
        self._deleted.move_to_end(post_id)
        self._forget()

    def block_changed(self, blocker_id: int, blocked_id: int, *, version: int, blocked: bool) -> None:
        pair = (blocker_id, blocked_id)
        known = self._blocks.get(pair)
        if known is not None and known[1] > version:
            return
        self._blocks[pair] = (self._clock.monotonic(), version, blocked)
        self._blocks.move_to_end(pair)
        self._settle(pair)
        self._forget()

    def deleted(self, post_ids: Sequence[int]) -> Sequence[int]:
        return [post_id for post_id in post_ids if post_id in self._deleted] if self._deleted else ()

    def blocked_with(self, user_id: int) -> frozenset[int]:
        return frozenset(self._blocked_with.get(user_id, ()))

    def _settle(self, pair: tuple[int, int]) -> None:
        one, other = pair
        stands = any(self._blocks.get(way, (0.0, 0, False))[2] for way in (pair, (other, one)))
        for user_id, with_id in (pair, (other, one)):
            if stands:
                self._blocked_with.setdefault(user_id, set()).add(with_id)
            elif user_id in self._blocked_with:
                self._blocked_with[user_id].discard(with_id)
                if not self._blocked_with[user_id]:
                    del self._blocked_with[user_id]

    def _forget(self) -> None:
        before = self._clock.monotonic() - REMEMBERED_S
        while self._deleted and (len(self._deleted) > MOST or next(iter(self._deleted.values())) < before):
            self._deleted.popitem(last=False)
        while self._blocks and (len(self._blocks) > MOST or next(iter(self._blocks.values()))[0] < before):
            pair, _ = self._blocks.popitem(last=False)
            self._settle(pair)


class FencedShelf:
    """feed_svc.ports.Shelf, with what the fence knows to be deleted shown as deleted."""

    def __init__(self, shelf: Shelf, fence: MemoryFence) -> None:
        self._shelf = shelf
        self._fence = fence

    async def fetch(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        records = await self._shelf.fetch(post_ids, author_ids)
        # After the records were read: what was heard meanwhile counts too.
        for post_id in self._fence.deleted(post_ids):
            if post_id in records.cards:
                records.cards[post_id].state = PostState.DELETED  # also where the process keeps it
        return records

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        return await self._shelf.authors_of(post_ids)


class FencedHomes:
    """feed_svc.ports.Homes, with what the fence knows of blocks in the viewer's record."""

    def __init__(self, homes: Homes, fence: MemoryFence) -> None:
        self._homes = homes
        self._fence = fence

    async def load(self, viewer_id: int, *, for_head: bool = False, newest: int = CAPACITY) -> Home:
        home = await self._homes.load(viewer_id, for_head=for_head, newest=newest)
        fenced = self._fenced(viewer_id, home.viewer)
        return home if fenced is home.viewer else replace(home, viewer=fenced)

    async def resume(self, viewer_id: int) -> tuple[ViewerRecord | None, Session | None]:
        viewer, session = await self._homes.resume(viewer_id)
        return self._fenced(viewer_id, viewer), session

    def _fenced(self, viewer_id: int, viewer: ViewerRecord | None) -> ViewerRecord | None:
        blocked = self._fence.blocked_with(viewer_id)
        if viewer is None or blocked <= viewer.blocks:
            return viewer
        return replace(viewer, blocks=viewer.blocks | blocked)

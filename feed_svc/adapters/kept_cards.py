"""Cards and author records kept in this process, as long as `card_changes` says that they are what they were (rule 6).

A page is served from here only if its own request has read what changed: `checked` tells. What was read before a change
was heard of is not kept, however late it comes. Edges and blocks are never kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar

from foundation.background import in_background
from foundation.card_changes import ENTRY_BYTES, RedisCardChanges, change_keys, changed_since, copy_near
from foundation.cards import AuthorCard, Card
from foundation.model.clock import Clock
from foundation.redis.client import Command, RedisCluster, slot_of_key
from foundation.viewers import viewer_key

KEPT_FOR_S = 600.0
"""Nothing is kept longer, whoever forgot to tell a change."""
BEGIN_EVERY_S = 1.0
BEGIN_WITHIN_S = 0.2

_checked: ContextVar[bool] = ContextVar("cards_checked", default=False)


class KeptCards:
    """One per process; all of it runs on one loop."""

    def __init__(self, clock: Clock, *, capacity: int) -> None:
        """*capacity*: cards, and about as many author records; one more, and all are forgotten. 0: nothing is kept."""
        self._clock = clock
        self._capacity = capacity
        self._cards: dict[int, Card] = {}
        self._authors: dict[int, AuthorCard] = {}
        self._copies: dict[int, bytes] = {}
        """Each copy of the changes as it was read last."""
        self._forget_at = 0.0
        self.generation = 0
        """Another one after whatever made something kept untrue."""
        self._missing = asyncio.Event()

    @asynccontextmanager
    async def running(self, redis: RedisCluster, changes: RedisCardChanges) -> AsyncIterator[None]:
        """Copies of the changes that are missing are made while this is open; a new primary is believed anew."""
        end = redis.on_primary_change(self.forget)
        try:
            await changes.begin(timeout_s=BEGIN_WITHIN_S)
            async with in_background(self._begin_copies(changes), name="card changes"):
                yield
        finally:
            end()

    def question(self, viewer_id: int) -> tuple[int, Command]:
        """Which copy of the changes the viewer's request reads with their home, and the command for it."""
        _checked.set(False)
        copy = copy_near(slot_of_key(viewer_key(viewer_id)))
        return copy, ("GET", change_keys()[copy])

    def check(self, copy: int, told: object) -> None:
        """What was *told* of this *copy* has been heard: from here on this request may be served from what is kept."""
        if not isinstance(told, bytes) or len(told) < ENTRY_BYTES:
            # Not there, or nobody answered: then nobody knows what changed.
            if told is None:
                self._missing.set()
            return
        known = self._copies.get(copy)
        if told != known:
            self._copies[copy] = told
            changed = changed_since(told, known) if known is not None else None
            if changed is None:
                self._drop_all()
            else:
                self._drop(changed)
        _checked.set(True)

    @property
    def checked(self) -> bool:
        """Whether this request has read what changed."""
        return _checked.get()

    @property
    def cards(self) -> Mapping[int, Card]:
        """What may be shown in a request that is `checked`."""
        return self._cards

    @property
    def authors(self) -> Mapping[int, AuthorCard]:
        """Likewise."""
        return self._authors

    def keep(self, cards: Mapping[int, Card], authors: Mapping[int, AuthorCard], *, generation: int) -> None:
        """What was read; *generation* is what it was before it was read."""
        if generation != self.generation or not self._capacity:
            return
        now = self._clock.monotonic()
        if now >= self._forget_at or max(len(self._cards), len(self._authors)) >= self._capacity:
            self._cards, self._authors = {}, {}
            self._forget_at = now + KEPT_FOR_S
        self._cards |= cards
        self._authors |= authors

    def forget(self) -> None:
        """Whatever was heard may not be all."""
        self._copies.clear()
        self._drop_all()

    def _drop(self, ids: Collection[int]) -> None:
        self.generation += 1
        for id_ in ids:
            self._cards.pop(id_, None)
            self._authors.pop(id_, None)

    def _drop_all(self) -> None:
        self.generation += 1
        self._cards, self._authors = {}, {}

    async def _begin_copies(self, changes: RedisCardChanges) -> None:
        while True:
            await self._missing.wait()
            await changes.begin(timeout_s=BEGIN_WITHIN_S)
            self._missing.clear()
            await asyncio.sleep(BEGIN_EVERY_S)

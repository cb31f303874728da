"""Versions that grow with every acknowledged write of any worker, without a counter and without a transaction.

A version is the sum of `stamps`: a map with one cell per worker, which holds the time part of an id that the worker
minted when it wrote. A worker's writes on one user take turns, so its cell grows with each of them; the sum grows with
every cell. A reader takes the version before it reads what the version stands for: a record of the same or a greater
version then never lacks what a lesser one has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from foundation.cql.write_time import write_time
from foundation.model.ids import Ids, time_part_of, worker_of


@dataclass(slots=True, frozen=True)
class Stamp:
    """What one write puts into `stamps`."""

    cell: int
    value: int
    """50 bits: the sum stays below 2**63 for as many workers as there can be."""
    write_us: int


class Versions:
    """The turns of one process."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, user_id: int) -> AsyncIterator[Stamp]:
        """Around a write on one user: nobody else in this process writes on them, and the stamp is the greatest."""
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        async with turn:
            yield self._stamp(swept=False)

    def swept(self) -> Stamp:
        """For what the sweeper completes, out of turn: a cell of its own, since it must not overtake a turn."""
        return self._stamp(swept=True)

    def _stamp(self, *, swept: bool) -> Stamp:
        minted = self._ids.next()
        worker = worker_of(minted)
        return Stamp(~worker if swept else worker, time_part_of(minted), write_time(minted))


def version_of(stamps: Mapping[int, int] | None) -> int:
    """The version that a row's `stamps` make; 0 where nothing was ever written."""
    return sum(stamps.values()) if stamps else 0

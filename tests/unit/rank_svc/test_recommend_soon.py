"""Recommendations on demand: each viewer once, a bounded number, and a failure is one viewer's alone."""

from __future__ import annotations

import asyncio

from foundation.errors import Unavailable
from rank_svc.flows.recommend_soon import MAX_WAITING, RecommendSoon
from tests.kit.eventually import eventually
from tests.kit.feeds import StoppedClock

ANA, BO, CY = 1, 2, 3


class Refresh:
    """Notes for whom it was asked."""

    def __init__(self) -> None:
        self.served: list[int] = []
        self.fails: dict[int, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, viewer_id: int) -> None:
        self.served.append(viewer_id)
        await self.gate.wait()
        if viewer_id in self.fails:
            raise self.fails[viewer_id]

    async def has_served(self, *viewers: int) -> bool:
        return self.served == [*viewers]


async def test_who_waits_is_served_once_and_in_turn() -> None:
    refresh = Refresh()
    soon = RecommendSoon(refresh, StoppedClock())
    assert all([soon(ANA), soon(BO), soon(ANA)])
    async with soon.running():
        await eventually(lambda: refresh.has_served(ANA, BO))
        assert soon(ANA)
        await eventually(lambda: refresh.has_served(ANA, BO, ANA))


async def test_a_failure_keeps_nobody_else_waiting() -> None:
    refresh = Refresh()
    refresh.fails = {ANA: Unavailable("UNAVAILABLE"), BO: ZeroDivisionError()}
    soon = RecommendSoon(refresh, StoppedClock())
    async with soon.running():
        assert all([soon(ANA), soon(BO), soon(CY)])
        await eventually(lambda: refresh.has_served(ANA, BO, CY))


async def test_more_than_so_many_are_refused_until_there_is_room() -> None:
    refresh = Refresh()
    soon = RecommendSoon(refresh, StoppedClock())
    assert all(soon(viewer) for viewer in range(MAX_WAITING))
    assert not soon(MAX_WAITING)
    assert soon(0), "who waits already takes no more room"
    async with soon.running():
        await eventually(lambda: refresh.has_served(*range(MAX_WAITING)))
        assert soon(MAX_WAITING)


async def test_it_rests_nine_times_as_long_as_it_works() -> None:
    clock = StoppedClock()
    refresh = Refresh()
    soon = RecommendSoon(refresh, clock)
    refresh.gate.clear()
    async with soon.running():
        assert all([soon(ANA), soon(BO)])
        await eventually(lambda: refresh.has_served(ANA))
        clock.seconds += 3_600
        refresh.gate.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert refresh.served == [ANA], "Bo's turn comes in nine hours"

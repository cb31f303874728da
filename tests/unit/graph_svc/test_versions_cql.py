"""The turns behind versions over CQL: what makes them grow with every write."""

from __future__ import annotations

import asyncio

from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes
from graph_svc.adapters.versions_cql import Stamp, Versions, version_of

ANA, BO = 1, 2


async def test_writes_on_one_user_take_turns_and_the_later_stamp_is_greater() -> None:
    versions = Versions(Snowflakes(SystemClock(), worker=7))
    stamps: list[Stamp] = []

    async def write(user_id: int) -> None:
        async with versions.turn(user_id) as stamp:
            stamps.append(stamp)

    async with versions.turn(ANA) as first:
        waiting = asyncio.create_task(write(ANA))
        await write(BO)
        await asyncio.sleep(0)
        assert len(stamps) == 1  # Bo's: nobody waits for another user
    await waiting
    bo, second = stamps
    assert first.value < bo.value < second.value
    assert first.write_us < second.write_us
    assert {first.cell, second.cell} == {7}


def test_the_sweeper_has_a_cell_of_its_own() -> None:
    versions = Versions(Snowflakes(SystemClock(), worker=7))
    assert versions.swept().cell == ~7


def test_every_cell_raises_the_version() -> None:
    assert version_of(None) == 0
    assert version_of({7: 5}) < version_of({7: 6}) < version_of({7: 6, ~7: 1})

"""The contract of positions (feed_svc.ports.Positions), over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from feed_svc.adapters.positions_cql import CqlPositions
from feed_svc.adapters.positions_sql import SqlPositions
from feed_svc.adapters.tables import FEED_TABLES
from feed_svc.model import Mode, SavedPosition
from feed_svc.ports import Positions
from foundation.model.clock import SystemClock
from foundation.model.ids import Snowflakes
from foundation.sql.database import open_database
from tests.kit.cassandra import migrated

IDS = Snowflakes(SystemClock())
AT = 1_800_000_000_000


@pytest.fixture(params=["sqlite", "postgresql", "cassandra"])
async def positions(request: pytest.FixtureRequest) -> AsyncIterator[Positions]:
    if request.param == "cassandra":
        async with migrated(request.getfixturevalue("keyspaces"), "feed_svc.adapters") as cql:
            yield CqlPositions(cql)
        return
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres")()
    async with open_database(url, FEED_TABLES) as database:
        yield SqlPositions(database)


@pytest.fixture
def ana() -> int:
    """A fresh user for each test: the stores outlive it."""
    return IDS.next()


async def test_nothing_was_saved(positions: Positions, ana: int) -> None:
    assert await positions.of(ana) is None


async def test_what_was_saved_is_there_to_the_last_bit(positions: Positions, ana: int) -> None:
    position = SavedPosition(Mode.LATEST, 2**62 + 1, AT)
    assert await positions.save(ana, position) == position
    assert await positions.of(ana) == position
    assert await positions.save(ana, position) == position, "again is harmless"


async def test_the_latest_by_time_is_kept(positions: Positions, ana: int) -> None:
    first = SavedPosition(Mode.RANKED, 10, AT)
    later = SavedPosition(Mode.LATEST, 5, AT + 1)
    await positions.save(ana, first)
    assert await positions.save(ana, later) == later
    assert await positions.save(ana, first) == later, "an old device comes late"
    assert await positions.of(ana) == later


async def test_two_of_one_time_are_never_mixed(positions: Positions, ana: int) -> None:
    one, other = SavedPosition(Mode.RANKED, 90, AT), SavedPosition(Mode.LATEST, 10, AT)
    for position in (one, other, one):
        await positions.save(ana, position)
        assert await positions.of(ana) in (one, other)


async def test_everyone_has_their_own(positions: Positions, ana: int) -> None:
    bo = IDS.next()
    mine, theirs = SavedPosition(Mode.RANKED, 10, AT), SavedPosition(Mode.RANKED, 20, AT + 5)
    await positions.save(ana, mine)
    assert await positions.of(bo) is None
    await positions.save(bo, theirs)
    assert (await positions.of(ana), await positions.of(bo)) == (mine, theirs)

"""The contract of foundation.leases.port.WorkerLeases, over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from sqlalchemy import MetaData

from foundation.leases.cql_leases import CqlWorkerLeases
from foundation.leases.port import Holder, WorkerLeases
from foundation.leases.sql_leases import SqlWorkerLeases, worker_leases_table
from foundation.model.clock import SystemClock
from foundation.sql.database import open_database
from tests.kit.cassandra import migrated
from tests.kit.eventually import eventually

TABLES = MetaData()
WORKER_LEASES = worker_leases_table(TABLES)
ANA, BO = Holder("ana", "1"), Holder("bo", "2")
ANA_AGAIN = Holder("ana", "3")
_nodes = count(1)


@pytest.fixture
def node() -> int:
    """Nobody's yet: the store outlives a test."""
    return next(_nodes)


@pytest.fixture(params=["sqlite", "postgresql", "cassandra"])
async def leases(request: pytest.FixtureRequest) -> AsyncIterator[WorkerLeases]:
    if request.param == "cassandra":
        async with migrated(request.getfixturevalue("keyspaces"), "post_svc.adapters") as cql:
            yield CqlWorkerLeases(cql)
    else:
        url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres")()
        async with open_database(url, TABLES) as database:
            yield SqlWorkerLeases(database, WORKER_LEASES, SystemClock())


async def test_a_free_number_is_leased_to_one_and_others_are_told_to_whom(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA) is None
    assert await leases.take(node, BO) == "ana"
    assert await leases.renew(node, ANA)
    assert not await leases.renew(node, BO)


async def test_of_many_who_take_at_once_one_has_it(leases: WorkerLeases, node: int) -> None:
    holders = [Holder(f"h{number}", f"t{number}") for number in range(8)]
    answers = await asyncio.gather(*(leases.take(node, holder) for holder in holders))
    assert answers.count(None) == 1
    assert [holder for holder in holders if await leases.renew(node, holder)] == [holders[answers.index(None)]]


async def test_numbers_are_leased_apart(leases: WorkerLeases, node: int) -> None:
    other = next(_nodes)
    assert await leases.take(node, ANA) is None
    assert await leases.take(other, BO) is None
    assert await leases.renew(node, ANA)
    assert not await leases.renew(other, ANA)


async def test_a_new_life_of_the_same_name_has_it_at_once_and_the_one_before_has_lost_it(
    leases: WorkerLeases, node: int
) -> None:
    assert await leases.take(node, ANA) is None
    assert await leases.take(node, ANA_AGAIN) is None
    assert not await leases.renew(node, ANA)
    await leases.give_back(node, ANA)
    assert await leases.renew(node, ANA_AGAIN)


async def test_a_lease_that_is_taken_again_counts_anew(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA, lease_s=1) is None
    assert await leases.take(node, ANA) is None
    await asyncio.sleep(2.5)
    assert await leases.take(node, BO) == "ana"


async def test_a_lease_ends_and_whoever_had_it_hears_of_who_has_it_now(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA, lease_s=1) is None
    assert await leases.take(node, BO) == "ana"
    await eventually(lambda: _takes(leases, node, BO), timeout_s=5)
    assert not await leases.renew(node, ANA)
    assert await leases.take(node, ANA) == "bo"
    assert await leases.renew(node, BO)


async def test_a_renewed_lease_does_not_end(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA, lease_s=1) is None
    assert await leases.renew(node, ANA)
    await asyncio.sleep(2.5)
    assert await leases.take(node, BO) == "ana"


async def test_a_lease_that_ran_out_goes_on_when_nobody_took_it(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA, lease_s=1) is None
    await asyncio.sleep(2.5)
    assert await leases.renew(node, ANA)
    assert await leases.take(node, BO) == "ana"


async def test_a_lease_lasts_for_as_long_as_was_asked(leases: WorkerLeases, node: int) -> None:
    clock = SystemClock()
    asked_s = clock.monotonic()
    assert await leases.take(node, ANA, lease_s=1) is None
    await eventually(lambda: _takes(leases, node, BO), timeout_s=5)
    assert clock.monotonic() - asked_s >= 0.99


async def test_a_number_that_is_given_back_rests_before_somebody_else_has_it(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA) is None
    await leases.give_back(node, ANA, rest_s=1)
    assert await leases.take(node, BO) == "ana"
    await eventually(lambda: _takes(leases, node, BO), timeout_s=5)
    # A lease that is lost is not given back any more.
    await leases.give_back(node, ANA)
    assert await leases.renew(node, BO)


async def test_a_number_that_is_given_back_is_there_for_the_same_name_at_once(leases: WorkerLeases, node: int) -> None:
    assert await leases.take(node, ANA) is None
    await leases.give_back(node, ANA, rest_s=1)
    assert await leases.take(node, ANA_AGAIN) is None
    await asyncio.sleep(2.5)
    assert await leases.take(node, BO) == "ana"


async def _takes(leases: WorkerLeases, node: int, holder: Holder) -> bool:
    return await leases.take(node, holder) is None

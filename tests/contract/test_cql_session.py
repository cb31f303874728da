"""Statements over a real Cassandra: what callers who leave do to those who stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from foundation.cql.address import CqlAddress
from foundation.cql.session import Cql, Statement, open_cql
from foundation.errors import DomainError

PREPARING_S = 0.3


@pytest.fixture
async def cql(cassandra: str) -> AsyncIterator[Cql]:
    """A session whose statements take their time to be prepared, as those of a store that is busy do."""
    async with open_cql(CqlAddress.parse(f"cassandra://{cassandra}/system"), keyspace=False) as cql:
        prepare = cql._session.prepare

        def slowly(text: str) -> Any:
            time.sleep(PREPARING_S)
            return prepare(text)

        cql._session.prepare = slowly  # type: ignore[method-assign,assignment]
        yield cql


def a_read() -> Statement:
    return Statement("SELECT key FROM system.local WHERE key = ?")


@pytest.mark.parametrize("leaving", [0, 1, 2])
async def test_who_runs_out_of_time_while_a_statement_is_prepared_leaves_it_to_the_others(
    cql: Cql, leaving: int
) -> None:
    statement = a_read()
    callers = [asyncio.create_task(cql.execute(statement, ("local",))) for _ in range(3)]
    await asyncio.sleep(PREPARING_S / 3)
    callers[leaving].cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(ended.pop(leaving), asyncio.CancelledError)
    assert ended == [[("local",)], [("local",)]]
    assert await cql.execute(statement, ("local",)) == [("local",)]


async def test_a_statement_that_all_its_callers_left_serves_the_next_one(cql: Cql) -> None:
    statement = a_read()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(PREPARING_S / 3):
            await cql.execute_all([(statement, ("local",)), (statement, ("local",))])
    assert await cql.execute(statement, ("local",)) == [("local",)]
    began = time.monotonic()
    assert await cql.execute(statement, ("local",)) == [("local",)]
    assert time.monotonic() - began < PREPARING_S / 2


async def test_a_statement_that_could_not_be_prepared_is_prepared_again(cql: Cql) -> None:
    statement = a_read()
    there, cql._session.prepare = cql._session.prepare, _away  # type: ignore[method-assign]
    ended = await asyncio.gather(*(cql.execute(statement, ("local",)) for _ in range(2)), return_exceptions=True)
    assert [isinstance(failure, DomainError) and failure.reason for failure in ended] == ["STORE_UNAVAILABLE"] * 2
    cql._session.prepare = there  # type: ignore[method-assign]
    assert await cql.execute(statement, ("local",)) == [("local",)]


def _away(_: str) -> Any:
    raise OSError

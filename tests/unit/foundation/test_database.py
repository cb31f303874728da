"""Group commit: what is acknowledged is durable, and nobody suffers from a neighbour."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert, select
from sqlalchemy.exc import IntegrityError

from foundation.errors import DeadlineExceeded, Exhausted, Unavailable
from foundation.sql import database as module
from foundation.sql.database import Database, open_database
from tests.kit.eventually import eventually

TABLES = MetaData()
PEOPLE = Table(
    "people", TABLES, Column("place", Integer, primary_key=True), Column("name", Text, unique=True, nullable=False)
)


def file_database(tmp_path: Path) -> AbstractAsyncContextManager[Database]:
    return open_database(f"sqlite:///{tmp_path}/people.db", TABLES)


@pytest.fixture(params=["file", "memory"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database("sqlite://", TABLES) if request.param == "memory" else file_database(tmp_path)
    async with opened as opened_database:
        yield opened_database


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[Database]:
    async with file_database(tmp_path) as opened:
        yield opened


def adding(name: str) -> Any:
    def work(connection: Connection) -> str:
        connection.execute(insert(PEOPLE).values(name=name))
        return name

    return work


async def names(database: Database) -> list[str]:
    return await database.read(lambda c: list(c.scalars(select(PEOPLE.c.name).order_by(PEOPLE.c.place))))


class Gate:
    """A work that holds the writer until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, connection: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(10)

    async def hold(self, database: Database) -> asyncio.Task[None]:
        held = asyncio.create_task(database.write(self))
        assert await asyncio.to_thread(self.entered.wait, 10)
        return held


async def test_what_is_written_can_be_read(database: Database) -> None:
    assert await database.write(adding("ana")) == "ana"
    assert await names(database) == ["ana"]


async def test_an_acknowledged_write_is_seen_by_others(on_disk: Database, tmp_path: Path) -> None:
    await on_disk.write(adding("ana"))
    with sqlite3.connect(tmp_path / "people.db") as other:
        assert other.execute("select name from people").fetchall() == [("ana",)]
    other.close()


async def test_commits_are_durable_ones(on_disk: Database) -> None:
    def pragmas(connection: Connection) -> list[Any]:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]

    full = 2
    assert await on_disk.write(pragmas) == ["wal", full]


WRITER_TO_KILL = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from tests.unit.foundation.test_database import TABLES, adding, open_database

async def main():
    async with open_database("sqlite:///" + sys.argv[1], TABLES) as database:
        async def client(me):
            turn = 0
            while True:
                turn += 1
                sys.stdout.write(await database.write(adding(f"{me}-{turn}")) + "\\n")
                sys.stdout.flush()
        await asyncio.gather(*(client(me) for me in range(16)))

asyncio.run(main())
"""


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "people.db"
    roots = [entry for entry in sys.path if entry]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER_TO_KILL, str(path), *roots, str(Path.cwd())], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(500)]
        writer.kill()
        acknowledged += writer.stdout.readlines()
    acknowledged = [line.strip() for line in acknowledged if line.endswith("\n")]
    assert len(acknowledged) >= 500
    connection = sqlite3.connect(path)
    stored = {name for (name,) in connection.execute("select name from people")}
    connection.close()
    assert not set(acknowledged) - stored


async def test_concurrent_writes_share_a_transaction(database: Database) -> None:
    transactions = await asyncio.gather(*(database.write(lambda c: c.get_transaction()) for _ in range(64)))
    assert len({id(transaction) for transaction in transactions}) == 1


async def test_a_work_sees_the_works_before_it(database: Database) -> None:
    results = await asyncio.gather(
        database.write(adding("ana")), database.write(lambda c: list(c.scalars(select(PEOPLE.c.name))))
    )
    assert results == ["ana", ["ana"]]


async def test_only_the_guilty_fails(database: Database) -> None:
    await database.write(adding("ana"))
    wanted = ["bo", "ana", "cy", "ana", "dee"]
    results = await asyncio.gather(*(database.write(adding(name)) for name in wanted), return_exceptions=True)
    assert [type(result) for result in results] == [str, IntegrityError, str, IntegrityError, str]
    assert await names(database) == ["ana", "bo", "cy", "dee"]


async def test_a_failed_work_leaves_nothing_behind(database: Database) -> None:
    def half(connection: Connection) -> None:
        adding("half")(connection)
        raise LookupError

    results = await asyncio.gather(
        database.write(adding("ana")), database.write(half), database.write(adding("bo")), return_exceptions=True
    )
    assert isinstance(results[1], LookupError)
    with pytest.raises(LookupError):
        await database.write(half)
    assert await names(database) == ["ana", "bo"]


async def test_who_needs_the_work_before_succeeds_beside_a_failure(database: Database) -> None:
    results = await asyncio.gather(
        database.write(adding("ana")),
        database.write(adding("ana")),
        database.write(lambda c: list(c.scalars(select(PEOPLE.c.name)))),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == ["ana", ["ana"]]


async def test_a_store_that_fails_is_unavailable(database: Database) -> None:
    await database.write(lambda c: PEOPLE.drop(c))
    with pytest.raises(Unavailable) as failure:
        await database.write(adding("ana"))
    assert failure.value.reason == "STORE_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await names(database)


async def test_a_lost_transaction_acknowledges_nobody(database: Database) -> None:
    await database.write(adding("ana"))

    def lose_it(connection: Connection) -> None:
        connection.exec_driver_sql("insert or rollback into people(name) values ('ana')")

    results = await asyncio.gather(
        database.write(adding("bo")), database.write(lose_it), database.write(adding("cy")), return_exceptions=True
    )
    assert all(isinstance(result, Exception) for result in results)
    assert await names(database) == ["ana"]
    assert await database.write(adding("dee")) == "dee"


async def test_a_path_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        async with open_database(f"sqlite:///{tmp_path}/no/such/directory/people.db", TABLES):
            pass


async def test_one_write_too_many_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    held = await gate.hold(database)
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    waiting = [asyncio.create_task(database.write(adding(name))) for name in ("ana", "bo", "cy")]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refusal:
        await database.write(adding("dee"))
    assert refusal.value.reason == "OVERLOADED"
    gate.opened.set()
    await asyncio.gather(held, *waiting)
    assert await names(database) == ["ana", "bo", "cy"]


async def test_a_write_given_up_before_it_began_has_no_effect(database: Database) -> None:
    gate = Gate()
    held = await gate.hold(database)
    with pytest.raises(DeadlineExceeded):
        await database.write(adding("late"), timeout_s=0.01)
    cancelled = asyncio.create_task(database.write(adding("cancelled")))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.opened.set()
    await held
    await database.write(adding("ana"))
    assert await names(database) == ["ana"]


async def test_a_write_given_up_after_it_began_may_take_effect(on_disk: Database) -> None:
    gate = Gate()

    def slowly(connection: Connection) -> None:
        gate(connection)
        adding("ana")(connection)

    with pytest.raises(DeadlineExceeded):
        await on_disk.write(slowly, timeout_s=0.02)
    assert await names(on_disk) == []
    gate.opened.set()
    await eventually(lambda: names(on_disk), timeout_s=5)


async def test_heavy_works_keep_their_order_and_answer_early(on_disk: Database) -> None:
    def heavy(name: str) -> Any:
        def work(connection: Connection) -> None:
            time.sleep(0.03)
            adding(name)(connection)

        return work

    writes = [asyncio.create_task(on_disk.write(heavy(name))) for name in "abcdef"]
    await asyncio.sleep(0.02)
    writes.append(asyncio.create_task(on_disk.write(heavy("g"))))
    await writes[0]
    assert not writes[-1].done()
    await asyncio.gather(*writes)
    assert await names(on_disk) == list("abcdefg")


async def test_a_read_sees_one_snapshot(on_disk: Database) -> None:
    looked, written = threading.Event(), threading.Event()

    def twice(connection: Connection) -> list[int]:
        first = len(connection.execute(select(PEOPLE)).all())
        looked.set()
        assert written.wait(10)
        return [first, len(connection.execute(select(PEOPLE)).all())]

    await on_disk.write(adding("ana"))
    reading = asyncio.create_task(on_disk.read(twice))
    assert await asyncio.to_thread(looked.wait, 10)
    await on_disk.write(adding("bo"))
    written.set()
    assert await reading == [1, 1]


async def test_a_read_cannot_write(on_disk: Database) -> None:
    with pytest.raises(Unavailable):
        await on_disk.read(adding("ana"))
    assert await names(on_disk) == []


async def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    async with file_database(tmp_path) as database:
        writes = [asyncio.create_task(database.write(adding(f"n{n}"))) for n in range(1_000)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable):
        await database.write(adding("late"))
    async with file_database(tmp_path) as again:
        assert len(await names(again)) == len(writes)

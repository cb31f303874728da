"""One database: writes on one thread with group commit, reads on a few.

Works that arrive while a transaction is being made durable share the next one: one fsync pays for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import StaticPool

from foundation.errors import DeadlineExceeded, Exhausted, Unavailable
from foundation.model.clock import Clock, SystemClock

T = TypeVar("T")

MAX_QUEUED = 10_000
"""Works waiting for the writer, and reads waiting for a reader; one more is refused."""
MAX_GROUP = 512
"""Works in one transaction."""
GROUP_S = 0.05
"""A transaction that has run this long takes no further work, so that heavy works do not hold up the answers of all."""
READERS = 2
BUSY_TIMEOUT_MS = 2_000
"""How long SQLite waits for another process that writes."""
CLOSE_WITHIN_S = 10.0

_OURS_TO_MEND = (IntegrityError, ProgrammingError, DataError, NotSupportedError)
"""What the work is guilty of, not the database."""


@dataclass(slots=True)
class _Work:
    run: Callable[[Connection], Any]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Outcome:
    result: Any = None
    failure: Exception | None = None


class Database:
    """Writes and reads one database from the loop that opened it. Made by open_database."""

    def __init__(self, writer: Engine, reader: Engine | None, clock: Clock) -> None:
        self._writer_engine = writer
        self._reader_engine = reader
        self._clock = clock
        self._waiting: deque[_Work] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._reading = 0
        self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sql-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sql-reader")

    async def write(self, work: Callable[[Connection], T], *, timeout_s: float = 5.0) -> T:
        """Run *work* in a transaction and return its result once that is durable.

        *work* runs on the writer thread after all works written before it, and twice when a neighbour in its
        transaction failed, so it has no effects but those on the connection. Its own exception comes back after its
        changes were rolled back. Raises Exhausted(OVERLOADED) when too many wait; Unavailable(STORE_UNAVAILABLE) when
        the database fails and DeadlineExceeded(STORE_TIMEOUT) when it is slow: then the outcome is unknown.
        """
        if self._closed:
            raise Unavailable("STORE_UNAVAILABLE", "the store is closed")
        if len(self._waiting) >= MAX_QUEUED:
            raise Exhausted("OVERLOADED", "too many writes are waiting")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Work(work, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting(), name="sql-committer")
        return await _answer(done, timeout_s)

    async def read(self, work: Callable[[Connection], T], *, timeout_s: float = 5.0) -> T:
        """Run *work* on one snapshot of what is committed, own earlier writes included. Raises like write."""
        if self._reader_engine is None:
            return await self.write(work, timeout_s=timeout_s)
        if self._closed:
            raise Unavailable("STORE_UNAVAILABLE", "the store is closed")
        if self._reading >= MAX_QUEUED:
            raise Exhausted("OVERLOADED", "too many reads are waiting")
        self._reading += 1
        try:
            loop = asyncio.get_running_loop()
            return await _answer(loop.run_in_executor(self._readers, _read, self._reader_engine, work), timeout_s)
        finally:
            self._reading -= 1

    async def close(self) -> None:
        """Finish the works in hand, for at most 10 s, and let go of the database."""
        self._closed = True
        committing = self._committing
        try:
            if committing is not None and not committing.done():
                await asyncio.wait([committing], timeout=CLOSE_WITHIN_S)
                committing.cancel()
                await asyncio.gather(committing, return_exceptions=True)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self._let_go)

    def _let_go(self) -> None:
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        if self._reader_engine is not None:
            self._reader_engine.dispose()
        self._writer_engine.dispose()

    async def _commit_waiting(self) -> None:
        """One transaction after the other until nobody waits."""
        loop = asyncio.get_running_loop()
        while group := self._next_group():
            try:
                works = [work.run for work in group]
                outcomes = await loop.run_in_executor(self._writer, self._commit_group, works)
            except BaseException:
                # The loop or the database closes: what these works did is not known.
                for work in (*group, *self._waiting):
                    if not work.done.done():
                        work.done.set_exception(Unavailable("STORE_UNAVAILABLE", "the store is closed"))
                raise
            # What the transaction had no time for is first in the next one.
            self._waiting.extendleft(reversed(group[len(outcomes) :]))
            for work, outcome in zip(group, outcomes, strict=False):
                if work.done.done():
                    continue
                if outcome.failure is None:
                    work.done.set_result(outcome.result)
                else:
                    work.done.set_exception(outcome.failure)

    def _next_group(self) -> list[_Work]:
        group: list[_Work] = []
        while self._waiting and len(group) < MAX_GROUP:
            work = self._waiting.popleft()
            # Whoever gave up before it began is spared the work.
            if not work.done.done():
                group.append(work)
        return group

    def _commit_group(self, works: Sequence[Callable[[Connection], Any]]) -> list[_Outcome]:
        """Outcomes of the first works, at least one, after their commit."""
        try:
            return self._commit_together(works)
        except Exception as failure:  # noqa: BLE001 - handed to the one whose work it is
            if len(works) == 1:
                return [_Outcome(failure=failure)]
        return self._commit_apart(works)

    def _commit_together(self, works: Sequence[Callable[[Connection], Any]]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        until = self._clock.monotonic() + GROUP_S
        with self._writer_engine.begin() as connection:
            for work in works:
                outcomes.append(_Outcome(work(connection)))
                if self._clock.monotonic() > until:
                    break
        return outcomes

    def _commit_apart(self, works: Sequence[Callable[[Connection], Any]]) -> list[_Outcome]:
        """Like _commit_together, with a savepoint around each work: the guilty fail, the others share one commit."""
        outcomes: list[_Outcome] = []
        until = self._clock.monotonic() + GROUP_S
        try:
            with self._writer_engine.begin() as connection:
                for work in works:
                    outcomes.append(_run_apart(connection, work))
                    if self._clock.monotonic() > until:
                        break
        except Exception as failure:  # noqa: BLE001 - the transaction failed, and every work with it
            return [_Outcome(failure=failure) for _ in works]
        return outcomes


def _run_apart(connection: Connection, work: Callable[[Connection], Any]) -> _Outcome:
    savepoint = connection.begin_nested()
    try:
        outcome = _Outcome(work(connection))
    except Exception as failure:  # noqa: BLE001 - handed to the one whose work it is
        # Raises where the database has lost the whole transaction.
        savepoint.rollback()
        return _Outcome(failure=failure)
    savepoint.commit()
    return outcome


def _read(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.connect() as connection, connection.begin():
        return work(connection)


async def _answer(done: asyncio.Future[T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        raise DeadlineExceeded("STORE_TIMEOUT", "the store took too long") from None
    except _OURS_TO_MEND:
        raise
    except (DBAPIError, PoolTimeoutError) as exc:
        raise Unavailable("STORE_UNAVAILABLE", "the store failed") from exc


@asynccontextmanager
async def open_database(url: str, metadata: MetaData) -> AsyncIterator[Database]:
    """The database at *url*, with the tables of *metadata* made where missing.

    `sqlite:///path/file.db`, `sqlite://` (memory, gone at the end, reads share the writer's connection), or any URL of
    SQLAlchemy. Raises Unavailable(STORE_UNAVAILABLE) where it cannot be opened.
    """
    address = make_url(url)
    writer: Engine
    reader: Engine | None
    if address.get_backend_name() != "sqlite":
        writer = create_engine(address, pool_size=1, max_overflow=0)
        reader = create_engine(address, pool_size=READERS, max_overflow=0)
    elif address.database in (None, "", ":memory:"):
        writer = _sqlite_engine(address, begin="BEGIN", poolclass=StaticPool)
        reader = None
    else:
        writer = _sqlite_engine(address, begin="BEGIN IMMEDIATE", pool_size=1, max_overflow=0)
        reader = _sqlite_engine(address, begin="BEGIN", pool_size=READERS, max_overflow=0)
        event.listen(reader, "connect", _refuse_writes)
    database = Database(writer, reader, SystemClock())
    try:
        try:
            await database.write(lambda connection: metadata.create_all(connection))
        except (SQLAlchemyError, Unavailable) as exc:
            raise Unavailable("STORE_UNAVAILABLE", f"cannot open the database {address!r}", url=repr(address)) from exc
        yield database
    finally:
        await database.close()


def _sqlite_engine(url: URL, *, begin: str, **pool: Any) -> Engine:
    # The driver would begin a transaction at the first change and leave earlier reads outside it; so we begin them.
    engine = create_engine(url, connect_args={"check_same_thread": False, "isolation_level": None}, **pool)
    event.listen(engine, "connect", _make_durable)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _make_durable(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _refuse_writes(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only=ON")
    cursor.close()

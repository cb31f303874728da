"""One database: writes on one thread with group commit, reads on a few.

Works that arrive while a transaction is being made durable share the next one: one fsync pays for all of them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from foundation.errors import DeadlineExceeded, Exhausted, Unavailable

T = TypeVar("T")

MAX_QUEUED = 10_000
"""Works waiting for the writer; one more is refused."""
MAX_GROUP = 512
"""Works in one transaction."""
READERS = 2


@dataclass(slots=True)
class _Work:
    run: Callable[[Connection], Any]
    done: Future[Any]


class Database:
    """Writes and reads one database from asyncio. Made by open_database."""

    def __init__(self, engine: Engine, *, shares_connection: bool) -> None:
        self._engine = engine
        self._shares_connection = shares_connection
        self._queue: queue.Queue[_Work | None] = queue.Queue(MAX_QUEUED)
        self._writer = threading.Thread(target=self._write_loop, name="sql-writer", daemon=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sql-reader")
        self._writer.start()

    async def write(self, work: Callable[[Connection], T], *, timeout_s: float = 5.0) -> T:
        """Run *work* in a transaction and return its result once that is durable.

        *work* runs on the writer thread, possibly twice (when a neighbour in its group failed), so it has no other
        effects. Its own exception comes back after its changes were rolled back. Raises Exhausted(OVERLOADED) when too
        many wait, Unavailable(STORE_UNAVAILABLE) when the database fails, DeadlineExceeded when it takes too long: the
        outcome is then unknown.
        """
        done: Future[T] = Future()
        try:
            self._queue.put_nowait(_Work(work, done))
        except queue.Full:
            raise Exhausted("OVERLOADED", "too many writes are waiting") from None
        return await _result(done, timeout_s)

    async def read(self, work: Callable[[Connection], T], *, timeout_s: float = 5.0) -> T:
        """Run *work* on what is committed. Raises like write."""
        if self._shares_connection:
            return await self.write(work, timeout_s=timeout_s)
        return await _result(self._readers.submit(self._read, work), timeout_s)

    def close(self) -> None:
        """Finish the works in hand and let go of the database."""
        self._queue.put(None)
        self._writer.join(timeout=10)
        self._readers.shutdown(wait=True)
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)

    def _write_loop(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            while len(group) < MAX_GROUP:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stopping = True
                    break
                group.append(following)
            self._commit_group(group)

    def _commit_group(self, group: list[_Work]) -> None:
        try:
            with self._engine.begin() as connection:
                results = [work.run(connection) for work in group]
        except Exception as failure:  # noqa: BLE001 - handed to the one who asked
            if len(group) == 1:
                _fail(group[0].done, failure)
            else:
                # Somebody's work failed and took the group with it: each gets a transaction of its own.
                for work in group:
                    self._commit_group([work])
            return
        for work, result in zip(group, results, strict=True):
            if work.done.set_running_or_notify_cancel():
                work.done.set_result(result)


def _fail(done: Future[Any], failure: Exception) -> None:
    if done.set_running_or_notify_cancel():
        done.set_exception(failure)


async def _result(done: Future[T], timeout_s: float) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            # Shielded: a cancelled caller must not un-queue a work of the group.
            return await asyncio.shield(asyncio.wrap_future(done))
    except TimeoutError:
        raise DeadlineExceeded("STORE_TIMEOUT", "the store took too long") from None
    except OperationalError as exc:
        raise Unavailable("STORE_UNAVAILABLE", "the store failed") from exc


@asynccontextmanager
async def open_database(url: str, metadata: MetaData) -> AsyncIterator[Database]:
    """The database at *url*, with the tables of *metadata* made where missing.

    `sqlite:///path/file.db`, `sqlite://` (memory, gone at the end), or any URL of SQLAlchemy.
    """
    in_memory = url in ("sqlite://", "sqlite:///:memory:")
    options: dict[str, Any] = {}
    if url.startswith("sqlite"):
        options["connect_args"] = {"check_same_thread": False, "timeout": 5.0}
    if in_memory:
        options["poolclass"] = StaticPool
    engine = create_engine(url, **options)
    if url.startswith("sqlite"):
        event.listen(engine, "connect", _prepare_sqlite)
    try:
        metadata.create_all(engine)
    except SQLAlchemyError as exc:
        engine.dispose()
        raise Unavailable("STORE_UNAVAILABLE", f"cannot open the database {url}", url=url) from exc
    database = Database(engine, shares_connection=in_memory)
    try:
        yield database
    finally:
        await asyncio.get_running_loop().run_in_executor(None, database.close)


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()

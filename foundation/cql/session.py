"""A keyspace for asyncio: prepared statements over scylla-driver, answers handed to the event loop in batches.

The driver answers on a thread of its own (libev). Waking the loop for each answer would cost more than the answer, so
one wake-up drains all that have come. The driver's own request timeout bounds every statement.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    Timeout,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    TokenAwarePolicy,
)
from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, PreparedStatement, tuple_factory

from foundation.cql.address import CqlAddress
from foundation.errors import DeadlineExceeded, Exhausted, Unavailable

MAX_IN_FLIGHT = 1_024
"""Statements sent and not answered; more wait their turn."""
MAX_WAITING = 20_000
"""Statements that wait; one more is refused."""
CALLS_AT_ONCE = 4_000
"""Of one execute_all, so that a long list leaves room for others among those that wait."""
BATCHES_AT_ONCE = 64
"""Of one batch_all: each holds many rows, and a store that is asked for too many answers none in time."""
GROUPS_AT_ONCE = 500
"""Of one `together`: small groups, so more of them than of batches."""
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 2.0
SPECULATE_AFTER_S = 0.05
"""A read that takes longer is asked of another replica too."""
ROWS_PER_FETCH = 5_000

UNSET = UNSET_VALUE
"""A parameter that leaves its column as it is; None would write a tombstone."""

Row = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Statement:
    """CQL text that is prepared once; `?` for each parameter."""

    text: str
    idempotent: bool = True
    """Whether the driver may send it again. Every write with its own timestamp is; a lightweight transaction is not."""
    timeout_s: float = REQUEST_TIMEOUT_S

    @property
    def is_read(self) -> bool:
        """Reads may be speculated; writes never are."""
        return self.text.lstrip()[:6].upper() == "SELECT"


Call = tuple[Statement, Sequence[Any]]
"""A statement and its parameters."""


class Cql:
    """One keyspace. Made by open_cql."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
        self._session = session
        self._loop = loop
        self._threads = threads
        self._prepared: dict[Statement, PreparedStatement] = {}
        self._preparing: dict[Statement, asyncio.Future[PreparedStatement]] = {}
        self._gate = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._waiting = 0
        self._answers: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._draining = False

    async def execute(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of the answer.

        Raises Unavailable(STORE_UNAVAILABLE), DeadlineExceeded(STORE_TIMEOUT): the outcome of a write is unknown then;
        Exhausted(OVERLOADED) when too many statements wait.
        """
        prepared = await self._prepare(statement)
        rows, more = await self._send(prepared.bind(parameters), statement)
        while more is not None:
            page, more = await self._next_page(more)
            rows = rows + page
        return rows

    async def execute_all(self, calls: Sequence[Call]) -> list[list[Row]]:
        """Answers in order, CALLS_AT_ONCE statements at a time. Raises the first failure when those sent have ended."""
        if len(calls) == 1:
            return [await self.execute(*calls[0])]
        rows: list[list[Row]] = []
        for start in range(0, len(calls), CALLS_AT_ONCE):
            some = calls[start : start + CALLS_AT_ONCE]
            for answer in await asyncio.gather(*(self.execute(*call) for call in some), return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                rows.append(answer)
        return rows

    async def batch(self, calls: Sequence[Call]) -> None:
        """Statements on ONE partition, atomic and isolated (an unlogged batch). Raises like execute."""
        await self._as_one(calls)

    async def _as_one(self, calls: Sequence[Call]) -> None:
        batch = BatchStatement(batch_type=BatchType.UNLOGGED)
        for statement, parameters in calls:
            batch.add(await self._prepare(statement), parameters)
        batch.is_idempotent = all(statement.idempotent for statement, _ in calls)
        await self._send(batch, calls[0][0])

    async def together(self, groups: Sequence[Sequence[Call]]) -> None:
        """Each of *groups* in one request, on a few partitions: cheaper for both sides than a request each.

        A group is neither atomic nor ordered: of one that failed some may be there. GROUPS_AT_ONCE at a time; raises
        the first failure after all have ended.
        """
        await self._each_as_one(groups, GROUPS_AT_ONCE)

    async def batch_all(self, batches: Sequence[Sequence[Call]]) -> None:
        """Batches, each on ONE partition, BATCHES_AT_ONCE at a time. Raises the first failure after all have ended."""
        await self._each_as_one(batches, BATCHES_AT_ONCE)

    async def _each_as_one(self, groups: Sequence[Sequence[Call]], at_once: int) -> None:
        gate = asyncio.Semaphore(at_once)

        async def send(calls: Sequence[Call]) -> None:
            async with gate:
                await self._as_one(calls)

        for ended in await asyncio.gather(*map(send, groups), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def pages(self, statement: Statement, parameters: Sequence[Any], *, rows: int) -> AsyncIterator[list[Row]]:
        """The answer in pages of *rows*, fetched as they are asked for: for partitions of any size."""
        bound = (await self._prepare(statement)).bind(parameters)
        bound.fetch_size = rows
        page, more = await self._send(bound, statement)
        while page or more is not None:
            if page:
                yield page
            if more is None:
                return
            page, more = await self._next_page(more)

    async def schema(self, text: str) -> list[Row]:
        """A statement that is not prepared: changes of the schema, which may take long."""
        rows: list[Row] = await self._in_thread(lambda: list(self._session.execute(text, timeout=30.0)))
        return rows

    async def _prepare(self, statement: Statement) -> PreparedStatement:
        prepared = self._prepared.get(statement)
        if prepared is not None:
            return prepared
        work = self._preparing.get(statement) or self._begin_preparing(statement)
        # Whoever runs out of time meanwhile goes alone: the others, and whoever comes later, need it still.
        return await asyncio.shield(work)

    def _begin_preparing(self, statement: Statement) -> asyncio.Future[PreparedStatement]:
        work: asyncio.Future[PreparedStatement] = self._loop.create_task(
            self._in_thread(lambda: self._session.prepare(statement.text)), name="cql prepare"
        )
        self._preparing[statement] = work

        def ended(_: object) -> None:
            del self._preparing[statement]
            if not work.cancelled() and work.exception() is None:
                made = self._prepared[statement] = work.result()
                made.is_idempotent = statement.idempotent

        work.add_done_callback(ended)
        return work

    async def _send(self, bound: Any, statement: Statement) -> tuple[list[Row], Any]:
        if self._waiting >= MAX_WAITING:
            raise Exhausted("OVERLOADED", "too many statements wait for the store")
        self._waiting += 1
        try:
            async with self._gate:
                profile = "reads" if statement.is_read else "writes"
                answer: asyncio.Future[list[Row]] = self._loop.create_future()
                try:
                    sent = self._session.execute_async(bound, execution_profile=profile, timeout=statement.timeout_s)
                except (DriverException, NoHostAvailable, OSError) as failure:
                    raise _translated(failure) from failure
                self._listen(sent, answer)
                try:
                    rows = await answer
                except (DriverException, NoHostAvailable, OSError) as failure:
                    raise _translated(failure) from failure
                return rows, (sent if sent.has_more_pages else None)
        finally:
            self._waiting -= 1

    async def _next_page(self, sent: Any) -> tuple[list[Row], Any]:
        answer: asyncio.Future[list[Row]] = self._loop.create_future()
        sent.clear_callbacks()
        try:
            sent.start_fetching_next_page()
            self._listen(sent, answer)
            rows = await answer
        except (DriverException, NoHostAvailable, OSError) as failure:
            raise _translated(failure) from failure
        return rows, (sent if sent.has_more_pages else None)

    def _listen(self, sent: Any, answer: asyncio.Future[list[Row]]) -> None:
        # Both run on the driver's thread.
        sent.add_callbacks(
            lambda rows: self._hand_over(answer, rows if rows is not None else [], None),
            lambda failure: self._hand_over(answer, None, failure),
        )

    def _hand_over(self, answer: asyncio.Future[Any], rows: Any, failure: BaseException | None) -> None:
        self._answers.append((answer, rows, failure))
        if not self._draining:
            # The flag may be read a moment too late: then the loop is woken once more than needed, never too seldom,
            # since the drain clears it before it looks at the queue.
            self._draining = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _drain(self) -> None:
        self._draining = False
        while self._answers:
            answer, rows, failure = self._answers.popleft()
            if answer.done():
                continue
            if failure is None:
                answer.set_result(list(rows) if not isinstance(rows, list) else rows)
            else:
                answer.set_exception(failure)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        try:
            return await self._loop.run_in_executor(self._threads, work)
        except (DriverException, NoHostAvailable, OSError) as failure:
            raise _translated(failure) from failure


def _translated(failure: BaseException) -> Exception:
    if isinstance(failure, InvalidRequest):
        return RuntimeError(f"the statement does not fit the schema: {failure}")
    if isinstance(failure, (OperationTimedOut, Timeout)):
        return DeadlineExceeded("STORE_TIMEOUT", "the store took too long")
    return Unavailable("STORE_UNAVAILABLE", "the store failed")


@asynccontextmanager
async def open_cql(address: CqlAddress, *, keyspace: bool = True) -> AsyncIterator[Cql]:
    """A session of the keyspace, or of the cluster where *keyspace* is False (to make one).

    Raises Unavailable(STORE_UNAVAILABLE) where nobody answers, STORE_LOGIN_REFUSED for a wrong password and
    STORE_KEYSPACE_MISSING where the keyspace was never made.
    """
    balanced = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=address.dc))
    common = {
        "load_balancing_policy": balanced,
        "consistency_level": ConsistencyLevel.LOCAL_QUORUM,
        "serial_consistency_level": ConsistencyLevel.LOCAL_SERIAL,
        "request_timeout": REQUEST_TIMEOUT_S,
        "row_factory": tuple_factory,
    }
    speculative = ConstantSpeculativeExecutionPolicy(delay=SPECULATE_AFTER_S, max_attempts=1)
    writes = ExecutionProfile(**common)
    profiles = {
        EXEC_PROFILE_DEFAULT: writes,
        "writes": writes,
        "reads": ExecutionProfile(**common, speculative_execution_policy=speculative),
    }
    cluster = Cluster(
        [(host, port) for host, port in address.hosts],
        port=address.hosts[0][1],  # what a node that is discovered listens on
        execution_profiles=profiles,
        connection_class=LibevConnection,
        auth_provider=PlainTextAuthProvider(address.username, address.password) if address.username else None,
        ssl_context=ssl.create_default_context(cafile=address.ca) if address.ca else None,
        connect_timeout=CONNECT_TIMEOUT_S,
        control_connection_timeout=CONNECT_TIMEOUT_S,
        idle_heartbeat_interval=5,
        idle_heartbeat_timeout=3,
        reconnection_policy=ExponentialReconnectionPolicy(base_delay=0.25, max_delay=2.0, max_attempts=None),
    )
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(2, thread_name_prefix="cql")
    try:
        try:
            session = await loop.run_in_executor(
                threads, lambda: cluster.connect(address.keyspace if keyspace else None)
            )
        except Exception as failure:
            raise _refused(failure, address) from failure
        session.default_fetch_size = ROWS_PER_FETCH
        yield Cql(session, loop, threads)
    finally:
        await loop.run_in_executor(threads, cluster.shutdown)
        threads.shutdown(wait=True)


def _refused(failure: Exception, address: CqlAddress) -> Unavailable:
    causes: list[BaseException] = [failure]
    if isinstance(failure, NoHostAvailable):
        told = failure.errors.values() if isinstance(failure.errors, dict) else failure.errors
        causes += [cause for cause in told if isinstance(cause, BaseException)]
    if any(isinstance(cause, AuthenticationFailed) for cause in causes):
        return Unavailable("STORE_LOGIN_REFUSED", f"{address.shown} refuses this user or password")
    if isinstance(failure, InvalidRequest):
        return Unavailable("STORE_KEYSPACE_MISSING", f"{address.shown} does not exist: feedmesh migrate up")
    return Unavailable("STORE_UNAVAILABLE", f"{address.shown} does not answer: {type(failure).__name__}")

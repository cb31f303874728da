"""The event log over SQL: one table of records, one of group offsets; partition 0 of every topic.

Offsets ascend in the order of commits only while one transaction at a time writes the log. SQLite sees to that; on
PostgreSQL, where several processes may append, a lock does: a reader that is past an offset never misses a smaller one.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from foundation.errors import DomainError
from foundation.events.port import RETENTION_MS, Event, Record
from foundation.model.clock import Clock
from foundation.sql.database import Database

LOG_TABLES = MetaData()

RECORDS = Table(
    "records",
    LOG_TABLES,
    Column("offset", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("topic", String(64), nullable=False),
    Column("key", BigInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("headers", Text, nullable=False),
    Index("records_by_topic", "topic", "offset"),
    # An offset is never used twice, even after the newest records were deleted.
    sqlite_autoincrement=True,
)
GROUP_OFFSETS = Table(
    "group_offsets",
    LOG_TABLES,
    Column("consumer_group", String(64), primary_key=True),
    Column("topic", String(64), primary_key=True),
    Column("committed", BigInteger, nullable=False),
)

LOOK_AGAIN_S = 0.1
"""How soon waiting pollers see what another process appended."""
TRIM_EVERY_MS = 60_000
"""How often appends look for records that are older than their topic keeps them."""
TRIMMED_AT_ONCE = 500
"""Records of each topic that one append looks at and deletes: a few milliseconds of its transaction."""
POSTGRESQL = "postgresql"
APPENDERS_LOCK = 0x6665_6564
"""Advisory lock of PostgreSQL that an appender holds until its transaction ends."""


class SqlEventLog:
    """foundation.events.port.EventLog over one database; appenders in this process wake its pollers at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._appended = asyncio.Event()
        """Replaced whenever something was appended."""
        self._exhausted: dict[tuple[str, frozenset[str]], asyncio.Event] = {}
        """Groups and topics that had nothing more, and the `_appended` of then: until it is set they need not look."""
        self._positions: dict[tuple[str, str], int] = {}
        self._rewinds = 0
        self._newest = 0
        self._trim_at_ms = 0
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None

    async def append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        now = self._clock.now_ms()
        trims = now >= self._trim_at_ms
        if trims:
            self._trim_at_ms = now + TRIM_EVERY_MS
        rows = [
            {
                "topic": event.topic,
                "key": event.key,
                "value": event.value,
                "timestamp_ms": now,
                "headers": json.dumps(dict(event.headers)) if event.headers else "",
            }
            for event in events
        ]

        def work(connection: Connection) -> None:
            if connection.dialect.name == POSTGRESQL:
                connection.execute(select(func.pg_advisory_xact_lock(APPENDERS_LOCK)))
            connection.execute(insert(RECORDS), rows)
            if trims and _trim(connection, now):
                self._trim_at_ms = 0  # there is more: the next append goes on

        try:
            await self._database.write(work)
        finally:
            # Also after an unknown outcome: looking once too often is cheap.
            self._wake_pollers()

    async def poll(self, group: str, topics: Sequence[str], *, max_records: int, wait_s: float) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        reader = (group, frozenset(topics))
        while True:
            # Taken before the read, so that an append during the read is not slept through.
            appended, rewinds = self._appended, self._rewinds
            if self._exhausted.get(reader) is not appended:
                records = await self._next(group, topics, max_records)
                if records:
                    return records
                if rewinds == self._rewinds:
                    self._exhausted[reader] = appended
            left_s = deadline - loop.time()
            if left_s <= 0 or not await self._grows(appended, left_s):
                return []

    async def commit(self, group: str, records: Sequence[Record]) -> None:
        done: dict[str, int] = defaultdict(int)
        for record in records:
            done[record.topic] = max(done[record.topic], record.offset)
        if not done:
            return
        rows = [
            {"consumer_group": group, "topic": topic, "committed": offset} for topic, offset in sorted(done.items())
        ]

        def work(connection: Connection) -> None:
            make = postgresql_insert if connection.dialect.name == POSTGRESQL else sqlite_insert
            upsert = make(GROUP_OFFSETS)
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=["consumer_group", "topic"],
                    set_={"committed": upsert.excluded.committed},
                    # A commit that comes late never takes a group back.
                    where=GROUP_OFFSETS.c.committed < upsert.excluded.committed,
                ),
                rows,
            )

        await self._database.write(work)

    async def rewind(self, group: str, topics: Sequence[str]) -> None:
        for topic in topics:
            self._positions.pop((group, topic), None)
        self._rewinds += 1
        for reader in [reader for reader in self._exhausted if reader[0] == group]:
            del self._exhausted[reader]

    async def rewind_to(self, group: str, topics: Sequence[str], timestamp_ms: int) -> None:
        def work(connection: Connection) -> None:
            for topic in topics:
                last = connection.scalar(_last_before(topic, timestamp_ms)) or 0
                connection.execute(
                    update(GROUP_OFFSETS)
                    .where(
                        GROUP_OFFSETS.c.consumer_group == group,
                        GROUP_OFFSETS.c.topic == topic,
                        GROUP_OFFSETS.c.committed > last,
                    )
                    .values(committed=last)
                )

        await self._database.write(work)
        await self.rewind(group, topics)

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            behind = 0
            for topic in topics:
                committed = connection.scalar(_committed(group, topic)) or 0
                count = select(func.count()).where(RECORDS.c.topic == topic, RECORDS.c.offset > committed)
                behind += connection.scalar(count) or 0
            return behind

        return await self._database.read(work)

    async def share(self, group: str, topics: Sequence[str]) -> float:  # noqa: ARG002 - every process reads everything
        return 1.0

    async def _next(self, group: str, topics: Sequence[str], max_records: int) -> Sequence[Record]:
        before = {topic: self._positions.get((group, topic)) for topic in topics}

        def work(connection: Connection) -> list[Record]:
            found: list[Record] = []
            for topic, position in before.items():
                after = position if position is not None else connection.scalar(_committed(group, topic)) or 0
                found.extend(_records(connection, topic, after, max_records))
            found.sort(key=lambda record: record.offset)
            return found[:max_records]

        records = await self._database.read(work)
        # Who rewound meanwhile is handed the same records once more.
        if any(self._positions.get((group, topic)) != position for topic, position in before.items()):
            return records
        for record in records:
            self._positions[group, record.topic] = record.offset
        return records

    async def _grows(self, appended: asyncio.Event, left_s: float) -> bool:
        """Wait until somebody appends, for so long; whether somebody did."""
        self._waiting += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_others(), name="log looks for others")
        try:
            async with asyncio.timeout(left_s):
                await appended.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return appended.is_set()

    async def _look_for_others(self) -> None:
        """While anybody waits: see whether another process appended. One look serves all waiting pollers."""
        try:
            while self._waiting:
                await asyncio.sleep(LOOK_AGAIN_S)
                try:
                    newest = await self._database.read(lambda connection: connection.scalar(_NEWEST)) or 0
                except DomainError:
                    self._wake_pollers()  # who waits finds out what is wrong
                    continue
                if newest > self._newest:
                    self._newest = newest
                    self._wake_pollers()
        finally:
            self._looking = None

    def _wake_pollers(self) -> None:
        appended, self._appended = self._appended, asyncio.Event()
        appended.set()


# Made once: building a statement costs more than running it.
_NEWEST = select(func.max(RECORDS.c.offset))
_AFTER = (
    select(RECORDS.c.offset, RECORDS.c.key, RECORDS.c.value, RECORDS.c.timestamp_ms, RECORDS.c.headers)
    .where(RECORDS.c.topic == bindparam("topic"), RECORDS.c.offset > bindparam("after"))
    .order_by(RECORDS.c.offset)
    .limit(bindparam("most"))
)


def _records(connection: Connection, topic: str, after: int, limit: int) -> list[Record]:
    found = connection.execute(_AFTER, {"topic": topic, "after": after, "most": limit})
    return [
        Record(topic, 0, offset, key, value, timestamp_ms, json.loads(headers) if headers else {})
        for offset, key, value, timestamp_ms, headers in found
    ]


def _trim(connection: Connection, now_ms: int) -> bool:
    """Delete the oldest records of each topic that have outlived its retention; whether there may be more."""
    outlived: list[int] = []
    more = False
    for topic, retention_ms in RETENTION_MS.items():
        oldest = (
            select(RECORDS.c.offset, RECORDS.c.timestamp_ms)
            .where(RECORDS.c.topic == topic)
            .order_by(RECORDS.c.offset)
            .limit(TRIMMED_AT_ONCE)
        )
        old = [row.offset for row in connection.execute(oldest) if row.timestamp_ms < now_ms - retention_ms]
        outlived += old
        more = more or len(old) == TRIMMED_AT_ONCE
    for start in range(0, len(outlived), TRIMMED_AT_ONCE):
        connection.execute(delete(RECORDS).where(RECORDS.c.offset.in_(outlived[start : start + TRIMMED_AT_ONCE])))
    return more


def _last_before(topic: str, timestamp_ms: int) -> Select[int]:
    """Found from the newest record backwards: what is taken back is a minute, not the log."""
    return (
        select(RECORDS.c.offset)
        .where(RECORDS.c.topic == topic, RECORDS.c.timestamp_ms < timestamp_ms)
        .order_by(RECORDS.c.offset.desc())
        .limit(1)
    )


def _committed(group: str, topic: str) -> Select[int]:
    return select(GROUP_OFFSETS.c.committed).where(
        GROUP_OFFSETS.c.consumer_group == group, GROUP_OFFSETS.c.topic == topic
    )

"""The event log over SQL: one table of records, one of group offsets; partition 0 of every topic."""

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
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from foundation.events.port import Event, Record
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

POLL_AGAIN_S = 0.05
"""How soon a poller looks again for records that another process appended."""


class SqlEventLog:
    """foundation.events.port.EventLog over one database; appenders in this process wake its pollers at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._appended = asyncio.Event()
        self._positions: dict[tuple[str, str], int] = {}

    async def append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        now = self._clock.now_ms()
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
        await self._database.write(lambda connection: connection.execute(insert(RECORDS), rows) and None)
        self._appended.set()

    async def poll(self, group: str, topics: Sequence[str], *, max_records: int, wait_s: float) -> Sequence[Record]:
        await self._know_positions(group, topics)
        deadline = self._clock.monotonic() + wait_s
        while True:
            self._appended.clear()
            records = await self._database.read(lambda connection: self._next(connection, group, topics, max_records))
            for record in records:
                self._positions[group, record.topic] = record.offset
            left = deadline - self._clock.monotonic()
            if records or left <= 0:
                return records
            try:
                async with asyncio.timeout(min(left, POLL_AGAIN_S)):
                    await self._appended.wait()
            except TimeoutError:
                continue

    def _next(self, connection: Connection, group: str, topics: Sequence[str], max_records: int) -> list[Record]:
        found: list[Record] = []
        for topic in topics:
            rows = connection.execute(
                select(RECORDS)
                .where(RECORDS.c.topic == topic, RECORDS.c.offset > self._positions[group, topic])
                .order_by(RECORDS.c.offset)
                .limit(max_records)
            )
            found.extend(
                Record(
                    topic=row.topic,
                    partition=0,
                    offset=row.offset,
                    key=row.key,
                    value=row.value,
                    timestamp_ms=row.timestamp_ms,
                    headers=json.loads(row.headers) if row.headers else {},
                )
                for row in rows
            )
        found.sort(key=lambda record: record.offset)
        return found[:max_records]

    async def commit(self, group: str, records: Sequence[Record]) -> None:
        done: dict[str, int] = defaultdict(int)
        for record in records:
            done[record.topic] = max(done[record.topic], record.offset)

        def work(connection: Connection) -> None:
            for topic, offset in done.items():
                moved = connection.execute(
                    update(GROUP_OFFSETS)
                    .where(GROUP_OFFSETS.c.consumer_group == group, GROUP_OFFSETS.c.topic == topic)
                    .values(committed=offset)
                )
                if moved.rowcount == 0:
                    connection.execute(
                        insert(GROUP_OFFSETS).values(consumer_group=group, topic=topic, committed=offset)
                    )

        if done:
            await self._database.write(work)

    async def rewind(self, group: str, topics: Sequence[str]) -> None:
        for topic in topics:
            self._positions.pop((group, topic), None)

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            behind = 0
            for topic in topics:
                committed = connection.scalar(_committed(group, topic)) or 0
                behind += (
                    connection.scalar(
                        select(func.count()).where(RECORDS.c.topic == topic, RECORDS.c.offset > committed)
                    )
                    or 0
                )
            return behind

        return await self._database.read(work)

    async def _know_positions(self, group: str, topics: Sequence[str]) -> None:
        unknown = [topic for topic in topics if (group, topic) not in self._positions]
        if not unknown:
            return
        known = await self._database.read(
            lambda connection: [(topic, connection.scalar(_committed(group, topic)) or 0) for topic in unknown]
        )
        for topic, offset in known:
            self._positions[group, topic] = offset


def _committed(group: str, topic: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    return select(GROUP_OFFSETS.c.committed).where(
        GROUP_OFFSETS.c.consumer_group == group, GROUP_OFFSETS.c.topic == topic
    )

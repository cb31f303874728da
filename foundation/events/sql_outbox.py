"""The outbox over SQL: a row of `open_slots` is there from a slot's first write until it is marked.

Each write of a row with events, in the same transaction: `insert_or_ignore(connection, open_slots, [slot and worker])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    bindparam,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from foundation.events.outbox import SlotKey
from foundation.events.port import Event
from foundation.sql.database import Database


def open_slots_table(metadata: MetaData) -> Table:
    """The table of slots whose events may not be in the log yet."""
    return Table(
        "open_slots",
        metadata,
        Column("slot", BigInteger, primary_key=True, autoincrement=False),
        Column("worker", Integer, primary_key=True, autoincrement=False),
    )


def event_columns() -> list[Column[Any]]:
    """Columns of a table with events: where they are swept, where published, under which key, the encoded envelope.

    The table has an index on (slot, worker).
    """
    return [
        Column("slot", BigInteger, nullable=False),
        Column("worker", Integer, nullable=False),
        Column("event_topics", String(64), nullable=False),
        Column("event_key", BigInteger, nullable=False),
        Column("event_value", LargeBinary, nullable=False),
    ]


def insert_or_ignore(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert *rows* of which some may be there already."""
    if not rows:
        return
    make = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    connection.execute(make(table).on_conflict_do_nothing(), [dict(row) for row in rows])


def topics_text(topics: Sequence[str]) -> str:
    """Value of the column event_topics."""
    return ",".join(topics)


def events_of(topics: str, key: int, value: bytes) -> list[Event]:
    """The events that one row stands for; none where its event_topics is empty."""
    return [Event(topic, key, value) for topic in topics.split(",") if topic]


class SqlOutbox:
    """foundation.events.outbox.Outbox over tables with event_columns()."""

    def __init__(self, database: Database, open_slots: Table, sources: Sequence[Table]) -> None:
        self._database = database
        self._open_slots = open_slots
        self._sources = sources
        self._listed_rows: dict[SlotKey, int] = {}

    async def unmarked(self, *, before_slot: int, limit: int) -> Sequence[SlotKey]:
        slots = self._open_slots

        def work(connection: Connection) -> dict[SlotKey, int]:
            oldest = (
                select(slots.c.slot, slots.c.worker)
                .where(slots.c.slot < before_slot)
                .order_by(slots.c.slot, slots.c.worker)
                .limit(limit)
            )
            rows = {SlotKey(slot, worker): 0 for slot, worker in connection.execute(oldest)}
            listed = oldest.subquery()
            for table in self._sources:
                counts = (
                    select(listed.c.slot, listed.c.worker, func.count())
                    .join(table, and_(table.c.slot == listed.c.slot, table.c.worker == listed.c.worker))
                    .group_by(listed.c.slot, listed.c.worker)
                )
                for slot, worker, count in connection.execute(counts):
                    rows[SlotKey(slot, worker)] += count
            return rows

        self._listed_rows = await self._database.read(work)
        return list(self._listed_rows)

    async def events(self, key: SlotKey) -> Sequence[Event]:
        def work(connection: Connection) -> list[Event]:
            found: list[Event] = []
            for table in self._sources:
                query = select(table.c.event_topics, table.c.event_key, table.c.event_value).where(
                    table.c.slot == key.slot, table.c.worker == key.worker
                )
                for topics, event_key, value in connection.execute(query):
                    found.extend(events_of(topics, event_key, value))
            return found

        return await self._database.read(work)

    async def mark(self, keys: Sequence[SlotKey]) -> None:
        slots = self._open_slots
        # A row that came after the listing may not have been published: its slot keeps its place for the next sweep.
        listed = [
            {"the_slot": key.slot, "the_worker": key.worker, "rows": self._listed_rows[key]}
            for key in keys
            if key in self._listed_rows
        ]
        if not listed:
            return
        unchanged = delete(slots).where(
            slots.c.slot == bindparam("the_slot"), slots.c.worker == bindparam("the_worker")
        )
        counts: Any = 0
        for table in self._sources:
            count = (
                select(func.count())
                .select_from(table)
                .where(table.c.slot == bindparam("the_slot"), table.c.worker == bindparam("the_worker"))
            )
            counts = counts + count.scalar_subquery()
        unchanged = unchanged.where(counts == bindparam("rows"))

        def work(connection: Connection) -> None:
            connection.execute(unchanged, listed)

        await self._database.write(work)

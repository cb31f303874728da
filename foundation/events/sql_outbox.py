"""The outbox over SQL: a row of `open_slots` is there from a slot's first write until it is marked."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, MetaData, String, Table, delete, select
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


def event_columns() -> list[Column[object]]:
    """Columns that a table with events has: where to publish, under which key, and the encoded envelope."""
    return [
        Column("slot", BigInteger, nullable=False),
        Column("worker", Integer, nullable=False),
        Column("event_topics", String(64), nullable=False),
        Column("event_key", BigInteger, nullable=False),
        Column("event_value", LargeBinary, nullable=False),
    ]


def insert_or_ignore(connection: Connection, table: Table, rows: Sequence[dict[str, object]]) -> None:
    """Insert *rows* of which some may be there already."""
    make = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    connection.execute(make(table).on_conflict_do_nothing(), list(rows))


def topics_text(topics: Sequence[str]) -> str:
    """Value of the column event_topics."""
    return ",".join(topics)


def events_of(topics: str, key: int, value: bytes) -> list[Event]:
    """The events that one row stands for."""
    return [Event(topic, key, value) for topic in topics.split(",")]


class SqlOutbox:
    """foundation.events.outbox.Outbox over tables with event_columns()."""

    def __init__(self, database: Database, open_slots: Table, sources: Sequence[Table]) -> None:
        self._database = database
        self._open_slots = open_slots
        self._sources = sources

    async def unmarked(self, *, before_slot: int, limit: int) -> Sequence[SlotKey]:
        slots = self._open_slots
        query = select(slots).where(slots.c.slot < before_slot).order_by(slots.c.slot).limit(limit)
        rows = await self._database.read(lambda connection: list(connection.execute(query)))
        return [SlotKey(row.slot, row.worker) for row in rows]

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

        def work(connection: Connection) -> None:
            for key in keys:
                connection.execute(delete(slots).where(slots.c.slot == key.slot, slots.c.worker == key.worker))

        await self._database.write(work)

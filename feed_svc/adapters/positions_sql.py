"""Positions over SQL: one row a user, replaced only by a later one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from feed_svc.adapters.tables import FEED_POSITIONS
from feed_svc.model import Mode, SavedPosition
from foundation.sql.database import Database


class SqlPositions:
    """feed_svc.ports.Positions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, user_id: int, position: SavedPosition) -> SavedPosition:
        def work(connection: Connection) -> SavedPosition:
            make = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
            row = {"mode": position.mode, "anchor_id": position.anchor_id, "saved_ms": position.saved_ms}
            upsert = make(FEED_POSITIONS).values(user_id=user_id, **row)
            later = FEED_POSITIONS.c.saved_ms <= upsert.excluded.saved_ms
            connection.execute(upsert.on_conflict_do_update(index_elements=["user_id"], set_=row, where=later))
            return _position(connection.execute(_of(user_id)).one())

        return await self._database.write(work)

    async def of(self, user_id: int) -> SavedPosition | None:
        row = await self._database.read(lambda connection: connection.execute(_of(user_id)).one_or_none())
        return _position(row) if row is not None else None


def _of(user_id: int) -> Any:
    columns = (FEED_POSITIONS.c.mode, FEED_POSITIONS.c.anchor_id, FEED_POSITIONS.c.saved_ms)
    return select(*columns).where(FEED_POSITIONS.c.user_id == user_id)


def _position(row: Row[Any]) -> SavedPosition:
    return SavedPosition(Mode(row.mode), row.anchor_id, row.saved_ms)

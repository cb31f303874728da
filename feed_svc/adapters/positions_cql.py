"""Positions over Cassandra or ScyllaDB: a position's time is the time of its write, so the latest wins by itself."""

from __future__ import annotations

from feed_svc.model import Mode, SavedPosition
from foundation.cql.session import Cql, Statement

_SAVE = Statement("INSERT INTO feed_positions (user_id, position) VALUES (?, ?) USING TIMESTAMP ?")
_OF = Statement("SELECT position FROM feed_positions WHERE user_id = ?")


class CqlPositions:
    """feed_svc.ports.Positions."""

    def __init__(self, cql: Cql) -> None:
        self._cql = cql

    async def save(self, user_id: int, position: SavedPosition) -> SavedPosition:
        cell = (int(position.mode), position.anchor_id, position.saved_ms)
        await self._cql.execute(_SAVE, (user_id, cell, position.saved_ms * 1_000))
        return await self.of(user_id) or position

    async def of(self, user_id: int) -> SavedPosition | None:
        rows = await self._cql.execute(_OF, (user_id,))
        if not rows:
            return None
        mode, anchor_id, saved_ms = rows[0][0]
        return SavedPosition(Mode(mode), anchor_id, saved_ms)

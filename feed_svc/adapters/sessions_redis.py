"""Sessions over Redis: `session:{u}`, a list of the viewer's newest 3 frozen heads.

One list per viewer instead of a key per session keeps "the newest 3" without bookkeeping, on the viewer's own node.
Layout 2 of an element, little endian: u8 layout, u64 session id, i64 freeze id, then the ids as i64, recommended ones
negative. Layout 1 knew of none; what was frozen then is served on.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from feed_svc.model import Session
from foundation.errors import Internal, Unavailable
from foundation.redis.client import Command, RedisCluster

LAYOUT = 2
READABLE = (1, 2)
KEPT = 3
TTL_S = 1_800
_HEAD = struct.Struct("<BQq")


def session_key(viewer_id: int) -> str:
    """Redis key of a viewer's sessions."""
    return f"session:{{{viewer_id}}}"


class RedisSessions:
    """feed_svc.ports.Sessions."""

    def __init__(self, redis: RedisCluster, *, within_s: float) -> None:
        self._redis = redis
        self._within_s = within_s

    async def save(self, viewer_id: int, session: Session) -> None:
        key = session_key(viewer_id)
        record = _HEAD.pack(LAYOUT, session.session_id, session.freeze_id) + _packed(session)
        await self._execute([("LPUSH", key, record), ("LTRIM", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)])

    async def load(self, viewer_id: int, session_id: int) -> Session | None:
        for record in await self._records(viewer_id):
            if _HEAD.unpack_from(record)[1] == session_id:
                return _session(record)
        return None

    async def newest(self, viewer_id: int) -> Sequence[Session]:
        return [_session(record) for record in await self._records(viewer_id)]

    async def _records(self, viewer_id: int) -> list[bytes]:
        key = session_key(viewer_id)
        records, _ = await self._execute([("LRANGE", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)])
        return [record for record in records if len(record) >= _HEAD.size and record[0] in READABLE]

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._redis.execute(commands, timeout_s=self._within_s)
        except Internal as failure:
            raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than sessions") from failure


def _session(record: bytes) -> Session:
    _, session_id, freeze_id = _HEAD.unpack_from(record)
    marked = np.frombuffer(record, "<i8", offset=_HEAD.size)
    recommended = frozenset((-marked[marked < 0]).tolist())
    return Session(session_id, freeze_id, np.abs(marked).tolist(), recommended)


def _packed(session: Session) -> bytes:
    ids, recommended = session.ids, session.recommended
    if recommended:
        ids = [-post_id if post_id in recommended else post_id for post_id in ids]
    return np.frombuffer(array("q", ids), dtype=np.int64).astype("<i8", copy=False).tobytes()

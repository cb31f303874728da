"""Sessions over Redis: `session:{u}`, a list of the viewer's newest 3 frozen heads.

One list per viewer instead of a key per session keeps "the newest 3" without bookkeeping, on the viewer's own node.
Layout 1 of an element, little endian: u8 layout, u64 session id, i64 freeze id, then the ids as i64.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np

from feed_svc.model import Session
from foundation.redis.client import RedisCluster

LAYOUT = 1
KEPT = 3
TTL_S = 1_800
_HEAD = struct.Struct("<BQq")


def session_key(viewer_id: int) -> str:
    """Redis key of a viewer's sessions."""
    return f"session:{{{viewer_id}}}"


class RedisSessions:
    """feed_svc.ports.Sessions."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def save(self, viewer_id: int, session: Session) -> None:
        key = session_key(viewer_id)
        record = _HEAD.pack(LAYOUT, session.session_id, session.freeze_id) + _packed(session.ids)
        await self._redis.execute([("LPUSH", key, record), ("LTRIM", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)])

    async def load(self, viewer_id: int, session_id: int) -> Session | None:
        key = session_key(viewer_id)
        records, _ = await self._redis.execute([("LRANGE", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)])
        for record in records:
            if len(record) < _HEAD.size or record[0] != LAYOUT:
                continue
            _, found_id, freeze_id = _HEAD.unpack_from(record)
            if found_id == session_id:
                return Session(session_id, freeze_id, np.frombuffer(record, "<i8", offset=_HEAD.size).tolist())
        return None


def _packed(ids: Sequence[int]) -> bytes:
    return np.frombuffer(array("q", ids), dtype=np.int64).astype("<i8", copy=False).tobytes()

"""Sessions over Redis: `session:{u}`, a list of the viewer's newest 3 frozen heads.

One list per viewer instead of a key per session keeps "the newest 3" without bookkeeping, on the viewer's own node.
Layout 3 of an element, little endian: u8 layout, u64 session id, i64 freeze id, u16 count, then so many post ids as
i64, as many author ids, and the post ids that are recommended. Layout 2 was without count and authors, recommended ids
negative; layout 1 knew of none. What was frozen then is served on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from feed_svc.model import Session
from foundation.errors import Internal, Unavailable
from foundation.redis.client import Command, RedisCluster

LAYOUT = 3
READABLE = (1, 2, 3)
KEPT = 3
TTL_S = 1_800
_HEAD = struct.Struct("<BQq")
_COUNT = struct.Struct("<H")
_ID_BYTES = 8


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
        await self._execute(
            [("LPUSH", key, encode_session(session)), ("LTRIM", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)]
        )

    async def load(self, viewer_id: int, session_id: int) -> Session | None:
        for session in await self.newest(viewer_id):
            if session.session_id == session_id:
                return session
        return None

    async def newest(self, viewer_id: int) -> Sequence[Session]:
        key = session_key(viewer_id)
        records, _ = await self._execute([("LRANGE", key, 0, KEPT - 1), ("EXPIRE", key, TTL_S)])
        return [session for session in map(decode_session, records) if session is not None]

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._redis.execute(commands, timeout_s=self._within_s)
        except Internal as failure:
            raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than sessions") from failure


def newest_session_commands(viewer_id: int) -> list[Command]:
    """For a pipeline of the caller's: the first brings what decode_session takes, the second renews TTL_S."""
    key = session_key(viewer_id)
    return [("LINDEX", key, 0), ("EXPIRE", key, TTL_S)]


def encode_session(session: Session) -> bytes:
    """The packed record."""
    author_ids = session.author_ids or (0,) * len(session.ids)
    ids = np.array([*session.ids, *author_ids, *session.recommended], dtype="<i8")
    head = _HEAD.pack(LAYOUT, session.session_id, session.freeze_id) + _COUNT.pack(len(session.ids))
    return head + ids.tobytes()


def decode_session(record: bytes) -> Session | None:
    """The session, or None for an unknown layout: a miss."""
    if len(record) < _HEAD.size + _COUNT.size or record[0] not in READABLE:
        return None
    layout, session_id, freeze_id = _HEAD.unpack_from(record)
    ids_at = _HEAD.size if layout < LAYOUT else _HEAD.size + _COUNT.size
    if (len(record) - ids_at) % _ID_BYTES:
        return None
    if layout < LAYOUT:
        marked = np.frombuffer(record, "<i8", offset=ids_at)
        recommended = frozenset((-marked[marked < 0]).tolist())
        return Session(session_id, freeze_id, np.abs(marked).tolist(), recommended)
    (count,) = _COUNT.unpack_from(record, _HEAD.size)
    ids: list[int] = np.frombuffer(record, "<i8", offset=ids_at).tolist()
    return Session(session_id, freeze_id, ids[:count], frozenset(ids[2 * count :]), ids[count : 2 * count])

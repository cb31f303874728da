"""Versioned records: a late fill or a late event never replaces what is newer."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.errors import Unavailable
from foundation.redis.client import RedisCluster
from foundation.redis.scripts import load_script

_SET_IF_NEWER = load_script("foundation.redis", "set_if_newer")


async def set_if_newer(
    redis: RedisCluster, records: Sequence[tuple[str, bytes]], *, ttl_s: int, timeout_s: float | None = None
) -> None:
    """Store (key, record) pairs for *ttl_s* unless the stored record has a greater version.

    A record's bytes 4 to 12 are its version (viewers, cards, authors). Raises Unavailable when any node was silent.
    """
    items = [(key, record, ttl_s) for key, record in records]
    for reply in await redis.run(_SET_IF_NEWER, items, timeout_s=timeout_s):
        if isinstance(reply, Exception):
            raise Unavailable("CACHE_UNAVAILABLE", "readers could not be told") from reply

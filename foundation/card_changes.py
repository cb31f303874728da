"""Which cards and author records changed lately, told on every node before the change is acknowledged (rule 6).

Processes keep cards, and read one copy of this record in the call that reads a viewer's home: an answer that starts
after an acknowledgement has read that the card changed. `card_changes:{n}` is the newest changes, newest first, in
COPIES equal copies over all slots, so that one of them lies with each viewer. An entry is 16 bytes: a stamp that nobody
else has, and the id of a post or user. Whoever finds the entry that was newest to them knows what came since; whoever
does not, because too much came or a failover or a restart took it away, keeps nothing of before.
"""

from __future__ import annotations

from collections.abc import Sequence

from foundation.errors import Unavailable
from foundation.model.clock import Randomness
from foundation.redis.client import RedisCluster
from foundation.redis.scripts import load_script
from foundation.redis.slots import part_of, spread_keys

COPIES = 16
ENTRIES = 32
"""Newest changes that a copy holds: a process that reads it less often than so many happen begins anew."""
STAMP_BYTES = 8
ENTRY_BYTES = STAMP_BYTES + 8

_PUT_BEFORE = load_script("foundation.redis", "put_before")


class RedisCardChanges:
    """The writers' side."""

    def __init__(self, redis: RedisCluster, randomness: Randomness) -> None:
        self._redis = redis
        self._randomness = randomness

    async def record(self, ids: Sequence[int], *, timeout_s: float) -> None:
        """These posts or users changed, and their cards or records say so already.

        Raises Unavailable(CACHE_UNAVAILABLE) unless every copy took it: somebody may not hear of it, so the change is
        not to be acknowledged. Idempotent: told twice it is a change twice.
        """
        entries = self._entries(ids)
        items = [(key, entries, ENTRIES * ENTRY_BYTES) for key in change_keys()]
        for reply in await self._redis.run(_PUT_BEFORE, items, timeout_s=timeout_s):
            if isinstance(reply, Exception):
                raise Unavailable("CACHE_UNAVAILABLE", "readers could not be told") from reply

    async def begin(self, *, timeout_s: float) -> None:
        """Make the copies that are missing. May fail for some: they stay missing, and nothing is kept by them."""
        entry = self._entries([0])
        await self._redis.try_execute([("SET", key, entry, "NX") for key in change_keys()], timeout_s=timeout_s)

    def _entries(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._randomness.token_bytes(STAMP_BYTES) + id_.to_bytes(8, "little") for id_ in ids)


def changed_since(copy: bytes, known: bytes) -> Sequence[int] | None:
    """The ids of what *copy* tells and *known*, the same copy as it was before, did not; None where nobody can say."""
    at = copy.find(known[:ENTRY_BYTES])
    if at < 0 or at % ENTRY_BYTES:
        return None
    return [
        int.from_bytes(copy[place + STAMP_BYTES : place + ENTRY_BYTES], "little") for place in range(0, at, ENTRY_BYTES)
    ]


def copy_near(slot: int) -> int:
    """Which copy lies with the keys of *slot*, or near them where slots are not shared out evenly."""
    return part_of(slot, COPIES)


def change_keys() -> tuple[str, ...]:
    """The keys of the copies."""
    return spread_keys("card_changes", COPIES)

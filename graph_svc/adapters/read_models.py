"""Viewer and author records: encoded from rows of any store, told to readers through Redis by compare-version."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from feedmesh.post.v1.post_pb2 import Author

from foundation import cards, viewers
from foundation.card_changes import RedisCardChanges
from foundation.errors import Unavailable
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.redis.versioned import set_if_newer
from foundation.visibility import UserState

TELL_WITHIN_S = 0.2
"""How long a reader's node may be silent before a change is not acknowledged (rule 6)."""
FILL_WITHIN_S = 0.05
"""How long a reader who has found no record waits for the cache to take it: the next one finds it there, or asks too.
Who asks has 250 ms in all, and may be the first to hear that the node is silent."""
MOST_FILLS = 256
"""Records being read for readers; one more ends with its caller."""


@dataclass(slots=True, frozen=True, kw_only=True)
class ViewerFacts:
    """What a viewer record is made of."""

    version: int
    """Of two sets of facts about a viewer, the one that was read later has a version at least as great, and greater if
    a change was acknowledged in between."""
    state: UserState
    follows: Collection[int]
    blocks: Collection[int]
    """In both directions."""
    mutes: Collection[int]
    marks: Mapping[int, int]
    """Of follows, those whose author is pulled, with what is marked: PULL or SUPER."""


@dataclass(slots=True, frozen=True, kw_only=True)
class AuthorFacts:
    """What an author record is made of."""

    version: int
    state: UserState
    is_private: bool
    username: str
    avatar_url: str
    is_verified: bool
    tier: Tier
    follower_count: int


class RecordRows(Protocol):
    """The rows behind the records."""

    async def viewer_facts(self, user_ids: Sequence[int]) -> Mapping[int, ViewerFacts]:
        """Of the users that exist."""
        ...

    async def author_facts(self, user_ids: Sequence[int]) -> Mapping[int, AuthorFacts]:
        """Of the users that exist."""
        ...


class ReadModelRecords:
    """graph_svc.ports.ReadModels. To be closed: fills that outlive their callers belong to it."""

    def __init__(self, rows: RecordRows, redis: RedisCluster, changes: RedisCardChanges) -> None:
        self._rows = rows
        self._redis = redis
        self._changes = changes
        self._fills: set[asyncio.Task[Sequence[bytes]]] = set()

    async def close(self) -> None:
        """Give up what is being filled."""
        for task in self._fills:
            task.cancel()
        if self._fills:
            await asyncio.wait(self._fills)

    async def viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        found = await self._rows.viewer_facts(user_ids)
        return [_viewer(found[user_id]) if user_id in found else b"" for user_id in user_ids]

    async def authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        found = await self._rows.author_facts(user_ids)
        return [_author(user_id, found[user_id]) if user_id in found else b"" for user_id in user_ids]

    async def fill_viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        return await self._outlive(self._fill_viewers(user_ids))

    async def fill_authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        return await self._outlive(self._fill_authors(user_ids))

    async def tell_viewers(self, user_ids: Sequence[int]) -> None:
        await self._tell_viewers(user_ids, await self.viewers(user_ids))

    async def tell_authors(self, user_ids: Sequence[int]) -> None:
        await self._tell_authors(user_ids, await self.authors(user_ids))
        # Only now: whoever drops what they kept and reads again must find the new record.
        await self._changes.record(user_ids, timeout_s=TELL_WITHIN_S)

    async def _fill_viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        records = await self.viewers(user_ids)
        with suppress(Unavailable):
            await self._tell_viewers(user_ids, records, FILL_WITHIN_S)
        return records

    async def _fill_authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        records = await self.authors(user_ids)
        with suppress(Unavailable):
            await self._tell_authors(user_ids, records, FILL_WITHIN_S)
        return records

    async def _outlive(self, fill: Coroutine[Any, Any, Sequence[bytes]]) -> Sequence[bytes]:
        """A fill that goes on when its caller gives up.

        A slow store would otherwise be asked again from the start by each retry, and never answer one. A later caller
        reads anew all the same: what began before a change was acknowledged may lack it.
        """
        if len(self._fills) >= MOST_FILLS:
            return await fill
        # An empty context: the caller's deadline is not that of the fill. Each statement has its own.
        task = asyncio.get_running_loop().create_task(fill, context=Context())
        self._fills.add(task)
        task.add_done_callback(self._filled)
        return await asyncio.shield(task)

    def _filled(self, task: asyncio.Task[Sequence[bytes]]) -> None:
        self._fills.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: the caller may be gone

    async def _tell_viewers(
        self, user_ids: Sequence[int], records: Sequence[bytes], within_s: float = TELL_WITHIN_S
    ) -> None:
        pairs = [(viewers.viewer_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=viewers.TTL_S, timeout_s=within_s)

    async def _tell_authors(
        self, user_ids: Sequence[int], records: Sequence[bytes], within_s: float = TELL_WITHIN_S
    ) -> None:
        pairs = [(cards.author_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=cards.TTL_S, timeout_s=within_s)

    async def forget_viewers(self, user_ids: Sequence[int]) -> None:
        await self._redis.execute([("UNLINK", viewers.viewer_key(user_id)) for user_id in user_ids])


def _viewer(facts: ViewerFacts) -> bytes:
    return viewers.encode_viewer(
        version=facts.version,
        state=facts.state,
        follows=facts.follows,
        blocks=facts.blocks,
        mutes=facts.mutes,
        pulled=facts.marks,
        supers=[author_id for author_id, mark in facts.marks.items() if mark == Tier.SUPER],
    )


def _author(user_id: int, facts: AuthorFacts) -> bytes:
    author = Author(
        user_id=user_id, username=facts.username, avatar_url=facts.avatar_url, is_verified=facts.is_verified
    )
    return cards.encode_author(
        state=facts.state,
        is_private=facts.is_private,
        version=facts.version,
        tier=facts.tier,
        follower_count=facts.follower_count,
        encoded=author.SerializeToString(),
    )

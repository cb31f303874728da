"""Viewer and author records: encoded from rows of any store, told to readers through Redis by compare-version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from feedmesh.post.v1.post_pb2 import Author

from foundation import cards, viewers
from foundation.errors import Unavailable
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.redis.versioned import set_if_newer
from foundation.visibility import UserState

TELL_WITHIN_S = 0.2
"""How long a reader's node may be silent before a change is not acknowledged (rule 6)."""


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
    """graph_svc.ports.ReadModels."""

    def __init__(self, rows: RecordRows, redis: RedisCluster) -> None:
        self._rows = rows
        self._redis = redis

    async def viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        found = await self._rows.viewer_facts(user_ids)
        return [_viewer(found[user_id]) if user_id in found else b"" for user_id in user_ids]

    async def authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        found = await self._rows.author_facts(user_ids)
        return [_author(user_id, found[user_id]) if user_id in found else b"" for user_id in user_ids]

    async def fill_viewers(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        records = await self.viewers(user_ids)
        with suppress(Unavailable):
            await self._tell_viewers(user_ids, records)
        return records

    async def fill_authors(self, user_ids: Sequence[int]) -> Sequence[bytes]:
        records = await self.authors(user_ids)
        with suppress(Unavailable):
            await self._tell_authors(user_ids, records)
        return records

    async def tell_viewers(self, user_ids: Sequence[int]) -> None:
        await self._tell_viewers(user_ids, await self.viewers(user_ids))

    async def tell_authors(self, user_ids: Sequence[int]) -> None:
        await self._tell_authors(user_ids, await self.authors(user_ids))

    async def _tell_viewers(self, user_ids: Sequence[int], records: Sequence[bytes]) -> None:
        pairs = [(viewers.viewer_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=viewers.TTL_S, timeout_s=TELL_WITHIN_S)

    async def _tell_authors(self, user_ids: Sequence[int], records: Sequence[bytes]) -> None:
        pairs = [(cards.author_key(uid), record) for uid, record in zip(user_ids, records, strict=True) if record]
        await set_if_newer(self._redis, pairs, ttl_s=cards.TTL_S, timeout_s=TELL_WITHIN_S)

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

"""Timelines over Redis: one list per owner, decimal text, newest first, the floor last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.errors import Unavailable
from foundation.redis.client import RedisCluster
from foundation.redis.scripts import load_script
from foundation.timeline.port import BUILDING_TTL_S, CAPACITY, SLACK, TTL_S, Pushed, Timeline

FEED = "feed"
"""`feed:{u}`: what a user's home feed is made of."""
AUTHOR_POSTS = "author_posts"
"""`author_posts:{a}`: an author's own posts."""

_PUSH = load_script("foundation.timeline", "push")
_BEGIN = load_script("foundation.timeline", "begin")
_COMMIT = load_script("foundation.timeline", "commit")
_BUILDING = b"!"


def timeline_key(family: str, owner: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"{family}:{{{owner}}}"


def parse_timeline(elements: Sequence[bytes] | None) -> Timeline | None:
    """The timeline in a list as read; None for an absent one or one that is being rebuilt."""
    if not elements or elements[-1].startswith(_BUILDING):
        return None
    ids = list(map(int, elements))
    floor = ids.pop()
    if len(ids) > CAPACITY:
        floor = ids[CAPACITY]
        del ids[CAPACITY:]
    return Timeline(ids, floor)


class RedisTimelines:
    """foundation.timeline.port.Timelines of one family."""

    def __init__(self, redis: RedisCluster, family: str) -> None:
        self._redis = redis
        self._family = family

    async def read(self, owners: Sequence[int]) -> Mapping[int, Timeline]:
        keys = [timeline_key(self._family, owner) for owner in owners]
        lists = await self._redis.execute([("LRANGE", key, 0, -1) for key in keys])
        if len(keys) == 1:
            await self._redis.execute([("EXPIRE", keys[0], TTL_S, "GT")])
        found = ((owner, parse_timeline(elements)) for owner, elements in zip(owners, lists, strict=True))
        return {owner: timeline for owner, timeline in found if timeline is not None}

    async def push(self, owners: Sequence[int], post_id: int) -> Mapping[int, Pushed]:
        outcome = await self.push_each([(owner, post_id) for owner in owners])
        return dict(zip(owners, outcome, strict=True))

    async def push_each(self, pairs: Sequence[tuple[int, int]]) -> Sequence[Pushed]:
        prefix = self._family + ":{"
        items = [(f"{prefix}{owner}}}", post_id) for owner, post_id in pairs]
        replies = await self._redis.run(_PUSH, items, common=(CAPACITY, SLACK))
        return [Pushed.FAILED if isinstance(reply, Exception) else _PUSHED[reply] for reply in replies]

    async def begin(self, owner: int, token: str, floor: int) -> bool:
        item = (timeline_key(self._family, owner), token, floor)
        return _made(await self._redis.run(_BEGIN, [item], common=(BUILDING_TTL_S,)))

    async def commit(self, owner: int, token: str, ids: Sequence[int], floor: int) -> bool:
        descending = ",".join(map(str, sorted(set(ids), reverse=True)))
        item = (timeline_key(self._family, owner), token, floor, descending)
        return _made(await self._redis.run(_COMMIT, [item], common=(CAPACITY, TTL_S)))

    async def unlink(self, owners: Sequence[int]) -> None:
        await self._redis.execute([("UNLINK", timeline_key(self._family, owner)) for owner in owners])


_PUSHED = {0: Pushed.COLD, 1: Pushed.DONE}


def _made(replies: Sequence[object]) -> bool:
    (reply,) = replies
    if isinstance(reply, Exception):
        raise Unavailable("CACHE_UNAVAILABLE", "the cache node did not answer") from reply
    return reply == 1

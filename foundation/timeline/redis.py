"""Timelines over Redis: one list per owner, decimal text, newest first, the floor last."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import orjson

from foundation.errors import Unavailable
from foundation.redis.client import Command, RedisCluster
from foundation.redis.scripts import load_script
from foundation.timeline.port import BUILDING_TTL_S, CAPACITY, SLACK, TTL_S, Pushed, Timeline

FEED = "feed"
"""`feed:{u}`: what a user's home feed is made of."""
AUTHOR_POSTS = "author_posts"
"""`author_posts:{a}`: an author's own posts."""
MAX_PUSHES_AT_ONCE = 4_000
"""More are pushed in turns, each with a timeout of its own."""

_PUSH = load_script("foundation.timeline", "push")
_BEGIN = load_script("foundation.timeline", "begin")
_COMMIT = load_script("foundation.timeline", "commit")
_TOUCH = load_script("foundation.timeline", "touch")
_BUILDING = b"!"
_TOKEN = re.compile(r"[0-9A-Za-z]{1,32}")
_PUSHED = {0: Pushed.COLD, 1: Pushed.DONE}


def timeline_key(family: str, owner: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"{family}:{{{owner}}}"


def read_commands(family: str, owner: int) -> list[Command]:
    """Two commands for a pipeline of the caller's: the first brings what parse_timeline takes, the second renews TTL_S.

    A plain EXPIRE would also prolong a rebuild whose builder died, and leave its owner cold for days.
    """
    key = timeline_key(family, owner)
    return [("LRANGE", key, 0, -1), _TOUCH.on((key,), (TTL_S,))]


def parse_timeline(elements: Sequence[bytes] | None, *, capacity: int = CAPACITY) -> Timeline | None:
    """The timeline in a list as read; None for an absent one or one that is being rebuilt."""
    if not elements or elements[-1].startswith(_BUILDING):
        return None
    # Decimal text is JSON too, and its parser takes a third of the time of 500 calls of int.
    ids: list[int] = orjson.loads(b"[%b]" % b",".join(elements))
    floor = ids.pop()
    if len(ids) > capacity:
        floor = ids[capacity]
        del ids[capacity:]
    return Timeline(ids, floor)


class RedisTimelines:
    """foundation.timeline.port.Timelines of one family."""

    def __init__(self, redis: RedisCluster, family: str, *, capacity: int = CAPACITY, slack: int = SLACK) -> None:
        self._redis = redis
        self._family = family
        self._capacity = capacity
        self._slack = slack

    async def read(self, owners: Sequence[int]) -> Mapping[int, Timeline]:
        if len(owners) == 1:
            lists = (await self._redis.execute(read_commands(self._family, owners[0])))[:1]
        else:
            lists = await self._redis.execute([("LRANGE", timeline_key(self._family, o), 0, -1) for o in owners])
        timelines: dict[int, Timeline] = {}
        for owner, elements in zip(owners, lists, strict=True):
            timeline = parse_timeline(elements, capacity=self._capacity)
            if timeline is not None:
                timelines[owner] = timeline
        return timelines

    async def push(self, owners: Sequence[int], post_id: int) -> Mapping[int, Pushed]:
        outcome = await self.push_each([(owner, post_id) for owner in owners])
        return dict(zip(owners, outcome, strict=True))

    async def push_each(self, pairs: Sequence[tuple[int, int]]) -> Sequence[Pushed]:
        prefix = self._family + ":{"
        common = (self._capacity, self._slack)
        outcome: list[Pushed] = []
        for start in range(0, len(pairs), MAX_PUSHES_AT_ONCE):
            turn = pairs[start : start + MAX_PUSHES_AT_ONCE]
            items = [(f"{prefix}{owner}}}", post_id) for owner, post_id in turn]
            replies = await self._redis.run(_PUSH, items, common=common)
            outcome += [Pushed.FAILED if isinstance(reply, Exception) else _PUSHED[reply] for reply in replies]
        return outcome

    async def begin(self, owner: int, token: str, floor: int) -> bool:
        if not _TOKEN.fullmatch(token):
            raise ValueError("a token is 1-32 letters and digits")
        item = (timeline_key(self._family, owner), token, floor)
        return _made(await self._redis.run(_BEGIN, [item], common=(BUILDING_TTL_S,)))

    async def commit(self, owner: int, token: str, ids: Sequence[int], floor: int) -> bool:
        descending = ",".join(map(str, sorted(set(ids), reverse=True)))
        item = (timeline_key(self._family, owner), token, floor, descending)
        return _made(await self._redis.run(_COMMIT, [item], common=(self._capacity, TTL_S)))

    async def unlink(self, owners: Sequence[int]) -> None:
        await self._redis.execute([("UNLINK", timeline_key(self._family, owner)) for owner in owners])


def _made(replies: Sequence[object]) -> bool:
    (reply,) = replies
    if isinstance(reply, Exception):
        raise Unavailable("CACHE_UNAVAILABLE", "the cache node did not answer") from reply
    return reply == 1

"""Heads over Redis: the first element and the length of a list, both O(1), all of a poll in one write a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feed_svc.model import HeadMark, HeadMarks
from foundation.redis.client import Command, RedisCluster
from foundation.timeline.redis import AUTHOR_POSTS, FEED, timeline_key

LISTS_AT_ONCE = 500
"""More are asked for in turns, so that a poll holds up other requests for a millisecond or two at most."""
_COLD = HeadMark(0, 0)


class RedisHeads:
    """feed_svc.ports.Heads."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis

    async def marks(self, feeds: Sequence[int], authors: Sequence[int]) -> HeadMarks:
        return HeadMarks(await self._of(FEED, feeds), await self._of(AUTHOR_POSTS, authors))

    async def _of(self, family: str, owners: Sequence[int]) -> Mapping[int, HeadMark]:
        found: dict[int, HeadMark] = {}
        for start in range(0, len(owners), LISTS_AT_ONCE):
            turn = owners[start : start + LISTS_AT_ONCE]
            commands: list[Command] = []
            for owner in turn:
                key = timeline_key(family, owner)
                commands += [("LINDEX", key, 0), ("LLEN", key)]
            replies = await self._redis.try_execute(commands)
            for owner, head, length in zip(turn, replies[::2], replies[1::2], strict=True):
                mark = _mark(head, length)
                if mark is not None:
                    found[owner] = mark
        return found


def _mark(head: Any, length: Any) -> HeadMark | None:
    if isinstance(head, Exception) or isinstance(length, Exception):
        return None
    # A rebuild that has just begun is a list of one element that is no number.
    return HeadMark(int(head), length) if head is not None and head.isdigit() else _COLD

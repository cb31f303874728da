"""Timelines over Redis: one list per owner, decimal text, newest first, the floor last."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from foundation.errors import Unavailable
from foundation.redis.client import Command, Places, RedisCluster
from foundation.redis.scripts import Argument, load_script
from foundation.redis.slots import slots_of_numbers
from foundation.timeline.port import (
    ABSENT_AFTER_S,
    BUILDING_TTL_S,
    CAPACITY,
    SLACK,
    TTL_S,
    Delivered,
    Owners,
    Pushed,
    Share,
    Timeline,
)

FEED = "feed"
"""`feed:{u}`: what a user's home feed is made of."""
AUTHOR_POSTS = "author_posts"
"""`author_posts:{a}`: an author's own posts."""
DELIVERIES_PER_CALL = 3_000
"""Deliveries to all nodes together; more are delivered in turns: a node's part holds up its other clients for 4 ms."""
TURNS_UNDER_WAY = 2
"""A node that is done with its part of one has the next one at hand."""
DELIVER_WITHIN_S = 1.0
MAX_PUSHES_AT_ONCE = 4_000
"""More are pushed in turns, each with a timeout of its own."""

_PUSH = load_script("foundation.timeline", "push", library="insert")
_DELIVER = load_script("foundation.timeline", "deliver", library="insert")
_BEGIN = load_script("foundation.timeline", "begin")
_COMMIT = load_script("foundation.timeline", "commit")
_TOUCH = load_script("foundation.timeline", "touch")
_BELOW = load_script("foundation.timeline", "below")
_BUILDING = b"!"
_TOKEN = re.compile(r"[0-9A-Za-z]{1,32}")
_PUSHED = {0: Pushed.COLD, 1: Pushed.DONE}


def timeline_key(family: str, owner: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"{family}:{{{owner}}}"


def route_key(post_id: int) -> str:
    """Redis key of what the fan-out decided about a post, other than to deliver it at once; text, for a day."""
    return f"fanout_route:{{{post_id}}}"


def read_newest_commands(family: str, owner: int, newest: int) -> list[Command]:
    """Two commands for a pipeline of the caller's: the replies of both are what parse_newest takes."""
    key = timeline_key(family, owner)
    # The end first: a list that is found to be whole is not being rebuilt when its start is read.
    return [("LINDEX", key, -1), ("LRANGE", key, 0, newest if newest < CAPACITY else -1)]


def parse_newest(last: bytes | None, elements: Sequence[bytes]) -> Timeline | None:
    """The *newest* ids of a list: complete above its floor, or above the first that was not asked for.

    As parse_timeline for the rest.
    """
    return None if last is None or last.startswith(_BUILDING) else parse_timeline(elements)


def touch_command(family: str, owner: int) -> Command:
    """Renews TTL_S.

    A plain EXPIRE would also prolong a rebuild whose builder died, and leave its owner cold for days.
    """
    return _TOUCH.on((timeline_key(family, owner),), (TTL_S,))


def parse_timeline(elements: Sequence[bytes] | None, *, capacity: int = CAPACITY) -> Timeline | None:
    """The timeline in a list as read; None for an absent one or one that is being rebuilt.

    Raises Unavailable for what is no timeline.
    """
    if not elements or elements[-1].startswith(_BUILDING):
        return None
    # Decimal text is JSON too, and its parser takes a third of the time of 500 calls of int.
    ids = _numbers(b",".join(elements))
    floor = ids.pop()
    if len(ids) > capacity:
        floor = ids[capacity]
        del ids[capacity:]
    return Timeline(ids, floor)


@dataclass(frozen=True)
class _Turn:
    """Parts of shares that are delivered together, one after the other in two arrays of one length."""

    shares: Sequence[Share]
    owners: Owners
    share_of: NDArray[np.int64]
    """The place among *shares* of the share that each owner is of."""

    def arguments(self, places: Places) -> Sequence[Argument]:
        """For the script: id, owners, id, owners, … of the owners at *places*."""
        owners, share_of = self.owners[places], self.share_of[places]
        ends = [*(np.flatnonzero(np.diff(share_of)) + 1).tolist(), len(places)]
        told: list[Argument] = []
        start = 0
        for end in ends:
            told.append(self.shares[share_of[start]].post_id)
            # JSON of numbers is decimal text with commas, and nothing makes it faster.
            told.append(orjson.dumps(owners[start:end], option=orjson.OPT_SERIALIZE_NUMPY))
            start = end
        return told

    @cached_property
    def share_of_pair(self) -> Mapping[tuple[int, int], int]:
        """For the few that are delivered alone."""
        return dict(zip(self.pairs(), self.share_of.tolist(), strict=True))

    def pairs(self, places: Places | None = None) -> list[tuple[int, int]]:
        """(owner, post id) of the owners at *places*, or of all."""
        owners = self.owners if places is None else self.owners[places]
        share_of = self.share_of if places is None else self.share_of[places]
        return [
            (owner, self.shares[share].post_id) for owner, share in zip(owners.tolist(), share_of.tolist(), strict=True)
        ]


def _pairs_of(refused: Sequence[bytes]) -> list[tuple[int, int]]:
    """(owner, post id) from the end of the script's answer."""
    return [(int(owner), int(post_id)) for post_id, owner in zip(refused[::2], refused[1::2], strict=True)]


def _turns(shares: Sequence[Share]) -> Iterator[_Turn]:
    """All of *shares*, DELIVERIES_PER_CALL at a time."""
    if not shares:
        return
    owners = np.concatenate([share.owners for share in shares])
    share_of = np.repeat(np.arange(len(shares)), [len(share.owners) for share in shares])
    for start in range(0, len(owners), DELIVERIES_PER_CALL):
        end = start + DELIVERIES_PER_CALL
        yield _Turn(shares, owners[start:end], share_of[start:end])


class RedisTimelines:
    """foundation.timeline.port.Timelines of one family."""

    def __init__(
        self,
        redis: RedisCluster,
        family: str,
        *,
        capacity: int = CAPACITY,
        slack: int = SLACK,
        read_within_s: float | None = None,
    ) -> None:
        self._redis = redis
        self._family = family
        self._read_within_s = read_within_s
        self._capacity = capacity
        self._slack = slack

    async def read(self, owners: Sequence[int]) -> Mapping[int, Timeline]:
        commands: list[Command] = [("LRANGE", timeline_key(self._family, owner), 0, -1) for owner in owners]
        if len(owners) == 1:
            commands.append(touch_command(self._family, owners[0]))
        lists = (await self._redis.execute(commands))[: len(owners)]
        timelines: dict[int, Timeline] = {}
        for owner, elements in zip(owners, lists, strict=True):
            timeline = parse_timeline(elements, capacity=self._capacity)
            if timeline is not None:
                timelines[owner] = timeline
        return timelines

    async def read_below(
        self, owners: Sequence[int], *, before_id: int, limit: int
    ) -> Mapping[int, Timeline | Unavailable | None]:
        items = [(timeline_key(self._family, owner),) for owner in owners]
        replies = await self._redis.run(_BELOW, items, common=(limit, before_id), timeout_s=self._read_within_s)
        return {owner: _part(reply) for owner, reply in zip(owners, replies, strict=True)}

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

    async def deliver(self, shares: Sequence[Share], *, present_only: bool = False) -> Delivered:
        least_ttl_s = TTL_S - ABSENT_AFTER_S if present_only else 0
        common = (self._capacity, self._slack, self._family + ":{", least_ttl_s)
        failed = np.zeros(len(shares), dtype=np.int64)
        cold = unlinked = 0
        turns = _turns(shares)
        while under_way := list(islice(turns, TURNS_UNDER_WAY)):
            for counts in await asyncio.gather(*(self._deliver_turn(turn, common) for turn in under_way)):
                failed += counts[0]
                cold += counts[1]
                unlinked += counts[2]
        return Delivered(failed=failed.tolist(), cold=cold, unlinked=unlinked)

    async def _deliver_turn(self, turn: _Turn, common: tuple[Argument, ...]) -> tuple[NDArray[np.int64], int, int]:
        """How many of each share failed, how many were cold, how many were unlinked."""
        failed = np.zeros(len(turn.shares), dtype=np.int64)
        cold = unlinked = 0
        told = await self._redis.run_shares(
            _DELIVER, slots_of_numbers(turn.owners), turn.arguments, common=common, timeout_s=DELIVER_WITHIN_S
        )
        for places, answer in told:
            if isinstance(answer, Unavailable):
                failed += np.bincount(turn.share_of[places], minlength=len(failed))
                continue
            if isinstance(answer, Exception):
                pairs = turn.pairs(places)
            else:
                cold += answer[0]
                unlinked += answer[1]
                pairs = _pairs_of(answer[2:])
            for pair, outcome in await self._deliver_alone(pairs, common):
                if isinstance(outcome, Exception) or outcome[2:]:
                    failed[turn.share_of_pair[pair]] += 1
                else:
                    cold += outcome[0]
                    unlinked += outcome[1]
        return failed, cold, unlinked

    async def _deliver_alone(
        self, pairs: Sequence[tuple[int, int]], common: tuple[Argument, ...]
    ) -> Sequence[tuple[tuple[int, int], Any]]:
        """The script's answer for each of (owner, post id) *pairs* that it could not do together with others.

        Because slots moved, or the server refuses it (rule 9).
        """
        commands = [
            _DELIVER.by_key(timeline_key(self._family, owner), (post_id, owner), common) for owner, post_id in pairs
        ]
        return list(zip(pairs, await self._redis.try_execute(commands, timeout_s=DELIVER_WITHIN_S), strict=True))

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


def _numbers(text: bytes) -> list[int]:
    """At least one. Raises Unavailable for other text."""
    try:
        numbers: list[int] = orjson.loads(b"[%b]" % text)
    except ValueError:
        numbers = []
    if not numbers:
        raise Unavailable("CACHE_UNAVAILABLE", "the cache holds something else than a timeline")
    return numbers


def _part(reply: bytes | int | Exception) -> Timeline | Unavailable | None:
    if isinstance(reply, Exception):
        return Unavailable("CACHE_UNAVAILABLE", str(reply))
    if not isinstance(reply, bytes):
        return None
    try:
        ids = _numbers(reply)
    except Unavailable as failure:
        return failure
    return Timeline(ids, ids.pop())


def _made(replies: Sequence[object]) -> bool:
    (reply,) = replies
    if isinstance(reply, Exception):
        raise Unavailable("CACHE_UNAVAILABLE", "the cache node did not answer") from reply
    return reply == 1

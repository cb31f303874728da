"""Gaps over Redis: the minutes whose posts were left to readers, in copies on every node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from foundation.errors import Unavailable
from foundation.model.clock import DAY_MS, Clock
from foundation.model.ids import EPOCH_MS, created_ms, id_at
from foundation.redis.client import Command, RedisCluster
from foundation.redis.slots import spread_keys
from foundation.timeline.port import Gap

COPIES = 16
"""Spread evenly over the slots: up to so many nodes each hold one, and no node that dies takes all of them."""
ENOUGH = COPIES // 2
"""Copies that a reader must see; a writer needs one more, so that what is written is seen."""
STEP_MS = 60_000
"""Ids are told apart by the minute: a gap that is too wide costs readers a merge, and nothing else."""
ONCE_MORE = repr(2.0**-29)
"""What each record adds to its minute's score: the whole part says which minute, the fraction that there were more."""
LIFE_MS = 8 * DAY_MS
"""Longer than any timeline lives without being rebuilt from what it lacks."""


class RedisGaps:
    """foundation.timeline.port.Gaps. `fanout_gaps:{n}`: sorted set of minutes since EPOCH_MS, by minute and records."""

    def __init__(self, redis: RedisCluster, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock

    async def record(self, post_ids: Sequence[int]) -> None:
        if not post_ids:
            return
        minutes = sorted({_minute(created_ms(post_id)) for post_id in post_ids})
        over = _minute(self._clock.now_ms() - LIFE_MS)
        commands: list[Command] = []
        for key in gap_keys():
            for minute in minutes:
                commands += [("ZADD", key, "NX", minute, minute), ("ZINCRBY", key, ONCE_MORE, minute)]
        replies = await self._redis.try_execute(commands)
        await self._redis.try_execute(
            [
                command
                for key in gap_keys()
                for command in (
                    ("ZREMRANGEBYSCORE", key, "-inf", over),
                    ("EXPIRE", key, LIFE_MS // 1_000),
                )
            ]
        )
        each = 2 * len(minutes)
        copies = [replies[start : start + each] for start in range(0, len(replies), each)]
        _require([next((one for one in copy if isinstance(one, Exception)), copy) for copy in copies], ENOUGH + 1)

    async def read(self) -> Sequence[Gap]:
        copies = await self._redis.try_execute([("ZRANGE", key, 0, -1, "WITHSCORES") for key in gap_keys()])
        _require(copies, ENOUGH)
        # A copy that was away counts fewer records than the others: what all of them say is the state.
        states: dict[int, list[bytes]] = defaultdict(list)
        for copy in copies:
            if isinstance(copy, list):
                for minute, score in zip(copy[::2], copy[1::2], strict=True):
                    states[int(minute)].append(score)
        gaps: list[Gap] = []
        for minute in sorted(states, reverse=True):
            state = hash(tuple(states[minute]))
            if gaps and gaps[-1].from_id == _first(minute + 1):
                gaps[-1] = Gap(_first(minute), gaps[-1].to_id, hash((gaps[-1].state, state)))
            else:
                gaps.append(Gap(_first(minute), _first(minute + 1) - 1, state))
        return gaps


def gap_keys() -> tuple[str, ...]:
    """The keys of the copies."""
    return spread_keys("fanout_gaps", COPIES)


def _minute(ms: int) -> int:
    return max(0, ms - EPOCH_MS) // STEP_MS


def _first(minute: int) -> int:
    return id_at(minute * STEP_MS + EPOCH_MS)


def _require(replies: Sequence[Any], enough: int) -> None:
    failed = [reply for reply in replies if isinstance(reply, Exception)]
    if len(replies) - len(failed) < enough:
        raise Unavailable("CACHE_UNAVAILABLE", "too few copies of the gaps answered") from failed[0]

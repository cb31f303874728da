"""The laws of timelines: the scripts against a model of a set and a floor, over random histories in a real Valkey.

The model is exact: what a reader gets is predicted to the id. Small capacities reach trims with few steps; ids are
neighbours where doubles, digits and signs would confuse them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import foundation.timeline.redis as subject
from foundation.errors import Unavailable
from foundation.redis.client import RedisCluster, connect
from foundation.redis.scripts import Script, make_script
from foundation.timeline.port import BUILDING_TTL_S, CAPACITY, SLACK, TTL_S, Delivered, Pushed, Share, Timeline
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines, parse_timeline, timeline_key

OWNERS = (1, 2, 31)
IDS = sorted(
    {
        *range(1, 13),
        *range(95, 106),
        *range(2**53 - 4, 2**53 + 4),
        *range(10**18 - 4, 10**18 + 4),
        *range(2**62 - 2, 2**62 + 3),
        *range(2**63 - 9, 2**63),
    }
)
FLOORS = [0, 0, 0, 5, 9, 99, 2**53, 10**18]


@dataclass
class Model:
    """One timeline, as rules 1 to 3 tell it."""

    capacity: int
    slack: int
    ids: list[int] | None = None
    """Ascending; None is cold."""
    floor: int = 0
    token: str | None = None
    """Of the rebuild that goes on."""
    pushed: set[int] = field(default_factory=set)
    """Everything that was ever pushed: what is in the store."""
    read_early: set[int] = field(default_factory=set)
    """What was in the store when the rebuild began: the least that it finds there."""

    def push(self, post: int) -> Pushed:
        self.pushed.add(post)
        if self.ids is None:
            return Pushed.COLD
        if post > self.floor and post not in self.ids:
            self.ids.insert(bisect_left(self.ids, post), post)
            if len(self.ids) > self.capacity + self.slack:
                self.cut()
        return Pushed.DONE

    def cut(self) -> None:
        assert self.ids is not None
        if len(self.ids) > self.capacity:
            self.floor = self.ids[-self.capacity - 1]
            self.ids = self.ids[-self.capacity :]

    def begin(self, token: str, floor: int) -> bool:
        if self.ids is not None:
            return False
        self.ids, self.floor, self.token, self.read_early = [], floor, token, set(self.pushed)
        return True

    def commit(self, token: str, found: Sequence[int], floor: int) -> bool:
        if self.ids is None or self.token != token:
            return False
        self.floor = max(self.floor, floor)
        self.ids = sorted(post for post in {*self.ids, *found} if post > self.floor)
        self.cut()
        self.token = None
        return True

    def forget(self) -> None:
        self.ids, self.token, self.floor = None, None, 0

    def read(self) -> Timeline | None:
        if self.ids is None or self.token is not None:
            return None
        seen = replace(self, ids=list(self.ids), pushed=set())
        seen.cut()
        assert seen.ids is not None
        return Timeline(seen.ids[::-1], seen.floor)


owners = st.sampled_from((1, 1, 1, *OWNERS))  # mostly one: histories that are about something
ids = st.sampled_from(IDS)
tokens = st.sampled_from(["a", "a", "ab", "b9"])
SINGLE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.lists(st.tuples(owners, ids), min_size=1, max_size=25)),
        st.tuples(st.just("push"), st.lists(st.tuples(st.just(1), ids), min_size=1, max_size=25)),
        st.tuples(st.just("deliver"), st.lists(st.tuples(owners, ids), min_size=1, max_size=25)),
        st.tuples(st.just("replay"), st.just(0)),
        st.tuples(st.just("begin"), owners, tokens, st.sampled_from(FLOORS)),
        st.tuples(st.just("commit"), owners, tokens, st.sampled_from(FLOORS), st.booleans()),
        st.tuples(st.just("unlink"), st.lists(owners, min_size=1, max_size=2)),
        st.tuples(st.just("evict"), owners),
    ),
    max_size=6,
)


def rebuilt(owner: int, floor: int, posts: tuple[list[int], list[int]], *, late: bool) -> list[Any]:
    """A cold list, posts before and during its rebuild: the story that rule 3 is about."""
    before, during = ([(owner, post) for post in part] for part in posts)
    return [
        ("unlink", [owner]),
        ("push", before),
        ("begin", owner, "a", floor),
        ("push", during),
        ("commit", owner, "a", floor, late),
    ]


POSTS = st.lists(ids, min_size=1, max_size=8)
REBUILDS = st.builds(rebuilt, owners, st.sampled_from(FLOORS), st.tuples(POSTS, POSTS), late=st.booleans())
STEPS = st.lists(st.one_of(SINGLE_STEPS, REBUILDS), max_size=8).map(
    lambda parts: [step for part in parts for step in part]
)


Check = Callable[[Sequence[Any], int, int], None]
"""AssertionError where the lists in Valkey and the model part: steps, capacity, slack."""


@pytest.fixture
def check(valkey: int) -> Iterator[Check]:
    with asyncio.Runner() as runner:
        redis = runner.run(connect([("127.0.0.1", valkey)], timeout_s=5))
        yield lambda steps, capacity, slack: runner.run(walk(redis, steps, capacity, slack))
        runner.run(redis.close())


async def walk(redis: RedisCluster, steps: Sequence[Any], capacity: int, slack: int) -> None:
    await redis.flush_all()
    timelines = RedisTimelines(redis, FEED, capacity=capacity, slack=slack)
    models = {owner: Model(capacity, slack) for owner in OWNERS}
    history: list[tuple[int, int]] = []
    for step in steps:
        match step:
            case ("push", pairs):
                history += pairs
                assert await timelines.push_each(pairs) == [models[owner].push(post) for owner, post in pairs]
            case ("deliver", pairs):
                history += pairs
                pushed = [models[owner].push(post) for owner, post in pairs]
                told = await timelines.deliver([Share(post, np.array([owner])) for owner, post in pairs])
                assert told == Delivered(failed=[0] * len(pairs), cold=pushed.count(Pushed.COLD))
            case ("replay", _):
                await replay(redis, timelines, models, history)
            case ("begin", owner, token, floor):
                assert await timelines.begin(owner, token, floor) == models[owner].begin(token, floor)
            case ("commit", owner, token, floor, late):
                model = models[owner]
                found = [post for post in (model.pushed if late else model.read_early) if post > floor]
                assert await timelines.commit(owner, token, found, floor) == model.commit(token, found, floor)
            case ("unlink", forgotten):
                await timelines.unlink(forgotten)
                for owner in forgotten:
                    models[owner].forget()
            case ("evict", owner):
                await redis.execute([("DEL", timeline_key(FEED, owner))])
                models[owner].forget()
        await agree(redis, timelines, models)


async def replay(
    redis: RedisCluster, timelines: RedisTimelines, models: dict[int, Model], history: list[tuple[int, int]]
) -> None:
    """Redelivery of everything: a list that is complete stays as it is, to the byte."""
    before = await lists(redis)
    for again in (history, history[::-1], history):
        assert await timelines.push_each(again) == [models[owner].push(post) for owner, post in again]
        for owner, elements in (await lists(redis)).items():
            assert elements == before[owner] or models[owner].token is not None
    settled = await lists(redis)
    await timelines.push_each(history)
    assert await lists(redis) == settled


async def agree(redis: RedisCluster, timelines: RedisTimelines, models: dict[int, Model]) -> None:
    for owner, elements in (await lists(redis)).items():
        texts = [int(element) for element in elements[:-1]]
        assert texts == sorted(set(texts), reverse=True)
        assert len(texts) <= models[owner].capacity + models[owner].slack
    await lives_are_right(redis, models)
    expected = {owner: read for owner, model in models.items() if (read := model.read()) is not None}
    assert await timelines.read(OWNERS) == expected
    for owner, model in models.items():
        timeline = expected.get(owner)
        assert await timelines.read([owner]) == ({} if timeline is None else {owner: timeline})
        if timeline is not None:  # the law that readers live by: every id of the sources above the floor is there
            assert set(timeline.ids) == {post for post in model.pushed if post > timeline.floor}
    await lives_are_right(redis, models)


async def lives_are_right(redis: RedisCluster, models: dict[int, Model]) -> None:
    ttls = await redis.execute([("TTL", timeline_key(FEED, owner)) for owner in models])
    for ttl, model in zip(ttls, models.values(), strict=True):
        longest = TTL_S if model.token is None else BUILDING_TTL_S
        assert ttl == -2 if model.ids is None else longest - 5 <= ttl <= longest


async def lists(redis: RedisCluster) -> dict[int, list[bytes]]:
    found = await redis.execute([("LRANGE", timeline_key(FEED, owner), 0, -1) for owner in OWNERS])
    return {owner: elements for owner, elements in zip(OWNERS, found, strict=True) if elements}


CAPACITIES = st.one_of(st.integers(1, 6), st.just(40))
THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@THOROUGH
@given(steps=STEPS, capacity=CAPACITIES, slack=st.integers(0, 3))
def test_every_history_leaves_what_the_model_says(check: Check, steps: list[Any], capacity: int, slack: int) -> None:
    check(steps, capacity, slack)


@settings(THOROUGH, max_examples=15)
@given(
    bursts=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300), st.booleans()), min_size=1, max_size=8),
    floor=st.integers(0, 100),
)
def test_so_it_is_at_full_size(check: Check, bursts: list[tuple[int, int, bool]], floor: int) -> None:
    steps: list[Any] = [("begin", 1, "a", floor)]
    for place, (start, count, downward) in enumerate(bursts):
        burst = [(1, post) for post in range(start + 1, start + count + 1)]
        steps.append(("push", burst[::-1] if downward else burst))
        if place == len(bursts) // 2:
            steps.append(("commit", 1, "a", floor, False))
    check(steps, CAPACITY, SLACK)


PLANTED = {
    "ids compared as doubles": ("push", "return a > b", "return tonumber(a) > tonumber(b)"),
    "ids compared as text of any length": ("push", "if #a ~= #b then", "if false then"),
    "the floor forgotten": (
        "push",
        "elseif greater(id, plain(redis.call('LINDEX', key, -1))) then",
        "elseif true then",
    ),
    "equal ids doubled": ("push", "if next == id then", "if false then"),
    "inserted after, not before": ("push", "'BEFORE'", "'AFTER'"),
    "halved past the place": ("push", "low = middle + 1", "low = middle + 2"),
    "halved short of the place": ("push", "high = middle\n", "high = middle - 1\n"),
    "only the head searched": (
        "push",
        "local low, high = #near, redis.call('LLEN', key) - 1",
        "local low, high = 0, 0",
    ),
    "the floor one too low": ("push", "redis.call('LINDEX', key, capacity)", "redis.call('LINDEX', key, capacity + 1)"),
    "one id too many cut": ("push", "'LTRIM', key, 0, capacity - 1", "'LTRIM', key, 0, capacity - 2"),
    "a trim ends the rebuild": ("push", "building .. floor", "floor"),
    "never trimmed": ("push", "if length > capacity + slack + 1 then", "if false then"),
    "a push makes a list": (
        "push",
        "answer[n] = 0",
        "redis.call('RPUSH', key, id, '0') answer[n] = 1",
    ),
    "a second rebuild begins": ("begin", "elseif there == 1 then", "elseif false then"),
    "a rebuild that lives on": ("begin", "redis.call('EXPIRE', key, ARGV[2])", ""),
    "anybody commits": ("commit", "if not last or string.sub(last, 1, #mark) ~= mark then", "if not last then"),
    "any token that begins alike commits": ("commit", "'!' .. token .. ':'", "'!' .. token"),
    "the risen floor ignored": ("commit", "if greater(risen, floor) then", "if false then"),
    "what was pushed meanwhile lost": ("commit", "for rest = at, #pushed do", "for rest = 1, 0 do"),
    "what was pushed between lost": ("commit", "add(pushed[at])\n", "\n"),
    "what was pushed meanwhile doubled": ("commit", "if pushed[at] == id then", "if false then"),
    "a committed floor too low": ("commit", "floor = merged[capacity + 1]", ""),
    "a committed list without end": ("commit", "redis.call('EXPIRE', key, ARGV[3])", ""),
    "reading prolongs a rebuild": ("touch", "or string.byte(last, 1) == 33 then", "then"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_model_finds_a_planted(bug: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    name, right, wrong = PLANTED[bug]
    script: Script = getattr(subject, f"_{name.upper()}")
    assert right.encode() in script.source
    monkeypatch.setattr(subject, f"_{name.upper()}", planted(script, right, wrong))

    def found(case: tuple[list[Any], int, int]) -> bool:
        try:
            check(*case)
        except (AssertionError, ValueError, Unavailable):  # a list that is none any more is a fault too
            return True
        return False

    hunting = settings(max_examples=1_500, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    find(st.tuples(STEPS, CAPACITIES, st.integers(0, 3)), found, settings=hunting)


def planted(script: Script, right: str, wrong: str) -> Script:
    return make_script(script.name, script.source.replace(right.encode(), wrong.encode()))


def test_a_list_as_read_becomes_ids_and_floor() -> None:
    assert parse_timeline(None) is None
    assert parse_timeline([]) is None
    assert parse_timeline([b"0"]) == Timeline([], 0)
    assert parse_timeline([b"9", b"7", b"5"]) == Timeline([9, 7], 5)
    assert parse_timeline([b"9", b"!a:5"]) is None
    assert parse_timeline([b"9", b"8", b"7", b"5"], capacity=2) == Timeline([9, 8], 7)


async def test_a_token_with_other_characters_is_refused(redis: RedisCluster) -> None:
    for token in ("", "a:b", "a" * 33, "é"):
        with pytest.raises(ValueError, match="letters and digits"):
            await RedisTimelines(redis, FEED).begin(1, token, 0)


async def test_families_are_apart(redis: RedisCluster) -> None:
    assert await RedisTimelines(redis, FEED).begin(1, "a", 0)
    assert await RedisTimelines(redis, AUTHOR_POSTS).begin(1, "a", 0)

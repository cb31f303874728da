"""Authors cross between tiers under follows and unfollows, and no follower of a pulled author is left unmarked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from foundation.cards import author_key, decode_author
from foundation.errors import Unavailable
from foundation.model.clock import Clock, Millis, SystemClock
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.viewers import ViewerRecord, decode_viewer, viewer_key
from graph_svc.edge.tier_rounds import TierRounds
from graph_svc.flows.apply_follows import ApplyFollows
from graph_svc.flows.cross_tiers import CrossTiers
from graph_svc.flows.mark_followers import MarkFollowers
from graph_svc.flows.review_tiers import ReviewTiers
from graph_svc.model import AppliedFollow, Borders, Crossing, mark_of
from graph_svc.ports import Followers
from tests.kit.eventually import eventually
from tests.kit.graph_stores import GraphStores, sql_graph_stores

BORDERS = Borders(pull_from=4, super_from=8, down_for_ms=1_000)
LOW_BORDERS = Borders(pull_from=2, super_from=5, down_for_ms=1)


@dataclass
class SetClock:
    """A clock that the test moves."""

    now: int = 0

    def now_ms(self) -> Millis:
        return Millis(self.now)

    def monotonic(self) -> float:
        return self.now / 1_000


class Announced:
    """graph_svc.ports.Announcements for what has no reader here; each batch is looked at when it is announced."""

    def __init__(self, look: Callable[[Sequence[AppliedFollow]], Awaitable[None]]) -> None:
        self._look = look

    async def follows_applied(self, changes: Sequence[AppliedFollow]) -> None:
        await self._look(changes)


async def nobody_looks(_: Sequence[AppliedFollow]) -> None:
    return


class Flows:
    """The flows of graph_svc over its stores."""

    def __init__(self, graph: GraphStores, redis: RedisCluster, clock: Clock, borders: Borders = BORDERS) -> None:
        self.graph = graph
        self.redis = redis
        self.clock = clock
        self.marking = MarkFollowers(tiers=graph.tiers, read_models=graph.read_models)
        self.review = ReviewTiers(tiers=graph.tiers, read_models=graph.read_models, clock=clock, borders=borders)
        self.cross = CrossTiers(tiers=graph.tiers, edges=graph.edges, mark_followers=self.marking, review=self.review)
        self.apply = ApplyFollows(
            followers=graph.followers,
            mark_followers=self.marking,
            announcements=Announced(nobody_looks),
            review_tiers=self.review,
        )

    async def tier(self, author: int) -> tuple[Tier, Crossing | None]:
        standing = (await self.graph.tiers.standings([author]))[author]
        return standing.tier, standing.crossing

    async def told(self, user: int) -> ViewerRecord | None:
        """The record that readers have."""
        (record,) = await self.redis.execute([("GET", viewer_key(user))])
        return decode_viewer(record) if record is not None else None

    async def grow(self, author: int, count: int) -> list[int]:
        crowd = await self.graph.people(count)
        await self.apply(await self.graph.follow(crowd, author))
        return crowd


@pytest.fixture
async def flows(redis: RedisCluster) -> AsyncIterator[Flows]:
    async with sql_graph_stores("sqlite://", redis) as graph:
        yield Flows(graph, redis, SetClock())


async def test_up_through_all_tiers_and_down_again(flows: Flows) -> None:
    clock = flows.clock
    assert isinstance(clock, SetClock)
    (ana,) = await flows.graph.people(1)
    crowd = await flows.grow(ana, 4)
    assert await flows.tier(ana) == (Tier.BOTH, Crossing.UP)
    assert await flows.told(crowd[0]) is None
    await flows.cross()
    assert await flows.tier(ana) == (Tier.PULL, None)
    for follower in crowd:
        told = await flows.told(follower)
        assert told is not None
        assert (told.pulled, told.supers) == ({ana}, frozenset())
    crowd += await flows.grow(ana, 4)
    assert await flows.tier(ana) == (Tier.SUPER, Crossing.UP)
    await flows.cross()
    assert await flows.tier(ana) == (Tier.SUPER, None)
    told = await flows.told(crowd[0])
    assert told is not None
    assert told.supers == {ana}

    await flows.apply(await flows.graph.unfollow(crowd[1:], ana))
    stations = [await flows.tier(ana)]
    for _ in range(4):
        await flows.cross()
        stations.append(await flows.tier(ana))
        clock.now += 600
    assert stations == [
        (Tier.PULL, Crossing.DOWN),
        (Tier.BOTH, Crossing.DOWN),
        (Tier.BOTH, Crossing.DOWN),
        (Tier.PUSH, Crossing.DOWN),
        (Tier.PUSH, None),
    ]
    told = await flows.told(crowd[0])
    assert told is not None
    assert not told.pulled


async def test_a_count_that_jumps_over_two_borders_is_followed_to_the_end(flows: Flows) -> None:
    """Nobody follows or unfollows afterwards: the end of one crossing begins the next."""
    (ana,) = await flows.graph.people(1)
    crowd = await flows.grow(ana, 8)
    await flows.cross()
    assert await flows.tier(ana) == (Tier.SUPER, Crossing.UP)
    await flows.cross()
    assert await flows.tier(ana) == (Tier.SUPER, None)
    await flows.apply(await flows.graph.unfollow(crowd[1:], ana))
    assert await flows.tier(ana) == (Tier.PULL, Crossing.DOWN)
    await flows.cross()
    assert await flows.tier(ana) == (Tier.BOTH, Crossing.DOWN)


async def test_writers_are_told_of_every_new_tier(flows: Flows) -> None:
    (ana,) = await flows.graph.people(1)
    await flows.grow(ana, 4)
    (record,) = await flows.redis.execute([("GET", author_key(ana))])
    author = decode_author(ana, record)
    assert author is not None
    assert (author.tier, author.follower_count) == (Tier.BOTH, 4)
    await flows.cross()
    (record,) = await flows.redis.execute([("GET", author_key(ana))])
    author = decode_author(ana, record)
    assert author is not None
    assert author.tier is Tier.PULL


async def test_back_above_the_border_while_going_down_is_pulled_at_once(flows: Flows) -> None:
    (ana,) = await flows.graph.people(1)
    crowd = await flows.grow(ana, 4)
    await flows.cross()
    await flows.apply(await flows.graph.unfollow(crowd[:2], ana))
    assert await flows.tier(ana) == (Tier.BOTH, Crossing.DOWN)
    more = await flows.grow(ana, 2)
    assert await flows.tier(ana) == (Tier.PULL, None)
    for follower in [*crowd[2:], *more]:
        assert (await flows.graph.viewer(follower)).pulled == {ana}


async def test_a_follow_applied_while_the_job_runs_is_marked_and_told_before_it_is_announced(flows: Flows) -> None:
    """The follow is made while the author is pushed; the whole crossing happens before its followers row is written."""
    graph = flows.graph
    (ana,) = await graph.people(1)
    (late,) = await graph.people(1)
    events = await graph.follow([late], ana)
    announced: list[bool] = []

    @dataclass
    class AfterTheCrossing:
        followers: Followers

        async def apply(self, changes: Sequence[AppliedFollow]) -> Sequence[AppliedFollow]:
            await flows.grow(ana, 4)
            await flows.cross()
            assert await flows.tier(ana) == (Tier.PULL, None)
            return await self.followers.apply(changes)

    async def look(changes: Sequence[AppliedFollow]) -> None:
        for change in changes:
            told = await flows.told(change.follower_id)
            announced.append(told is not None and ana in told.pulled)

    apply = replace(flows.apply, followers=AfterTheCrossing(graph.followers), announcements=Announced(look))
    await apply(events)
    assert announced == [True]
    assert (await graph.viewer(late)).pulled == {ana}


async def test_readers_are_told_again_when_the_telling_failed(flows: Flows) -> None:
    """A batch that marked and died comes again: the mark is there, the record that readers have is not."""
    (ana,) = await flows.graph.people(1)
    await flows.grow(ana, 4)
    (late,) = await flows.graph.people(1)
    events = await flows.graph.follow([late], ana)
    await flows.graph.followers.apply(events)
    await flows.graph.tiers.mark([(ana, late)])
    await flows.apply(events)
    told = await flows.told(late)
    assert told is not None
    assert told.pulled == {ana}


async def test_rounds_finish_crossings_by_themselves(flows: Flows) -> None:
    (ana,) = await flows.graph.people(1)
    await flows.grow(ana, 4)
    rounds = TierRounds(flows.cross, every_s=0.01)
    async with rounds.running(), TierRounds(flows.cross, every_s=0.01).running():

        async def pulled() -> bool:
            return await flows.tier(ana) == (Tier.PULL, None)

        await eventually(pulled)


class Turns:
    """Lets one of several tasks go on at a time, by chance; one of them stands still before its *at*th port call.

    It goes on after STANDS_FOR turns of the others: time for a whole crossing.
    """

    STANDS_FOR = 60

    def __init__(self, chance: Random, *, stands: int, at: int) -> None:
        self._chance = chance
        self._stands = stands
        self._before = at
        self._waiting: dict[asyncio.Task[Any], asyncio.Future[None]] = {}

    def taken(self, port: Any) -> Any:
        """*port*, each of whose calls waits for its turn."""
        return _Taking(port, self)

    async def turn(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = asyncio.get_running_loop().create_future()
        await self._waiting[task]

    async def run(self, *works: Coroutine[Any, Any, None]) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            standing, left = tasks[self._stands], self.STANDS_FOR
            while running := [task for task in tasks if not task.done()]:
                if len(self._waiting) < len(running):
                    await asyncio.sleep(0)
                    continue
                able = running
                if not self._before and left:
                    left -= 1
                    able = [task for task in running if task is not standing] or running
                chosen = self._chance.choice(able)
                self._before -= chosen is standing and self._before > 0
                self._waiting.pop(chosen).set_result(None)


class _Taking:
    def __init__(self, port: Any, turns: Turns) -> None:
        self._port = port
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)

        async def pages(*args: Any) -> AsyncIterator[Any]:
            async for page in call(*args):
                await self._turns.turn()
                yield page

        async def in_turn(*args: Any, **named: Any) -> Any:
            await self._turns.turn()
            return await call(*args, **named)

        return pages if name == "follower_pages" else in_turn


@pytest.mark.parametrize("stands", range(4), ids=["people", "consumer", "other consumer", "job"])
async def test_whatever_the_order_of_consumers_and_jobs_no_follower_of_a_pulled_author_is_unmarked(
    redis: RedisCluster, stands: int
) -> None:
    for at in range(10):
        chance = Random(at)
        history = [(chance.random() < 0.5, chance.randrange(7)) for _ in range(at)]
        async with sql_graph_stores("sqlite://", redis) as graph:
            flows = Flows(graph, redis, SystemClock(), LOW_BORDERS)
            await _cross_in_turns(flows, history, 1 + at % 3, Turns(chance, stands=stands, at=at))


async def _cross_in_turns(flows: Flows, history: list[tuple[bool, int]], batch: int, turns: Turns) -> None:
    graph = flows.graph
    ana, *crowd = await graph.people(8)
    await graph.follow(crowd, ana)
    followed = False
    applied = 0

    async def people() -> None:
        nonlocal followed
        edges = turns.taken(graph.edges)
        mine = replace(graph, edges=edges)
        for follows, who in history:
            await (mine.follow if follows else mine.unfollow)([crowd[who]], ana)
        followed = True

    async def look(changes: Sequence[AppliedFollow]) -> None:
        for change in changes:
            viewer = await graph.viewer(change.follower_id)
            if change.following and ana in viewer.follows and (await flows.tier(ana))[0] >= Tier.PULL:
                assert ana in viewer.pulled, "announced without a mark"

    def taking() -> Flows:
        own = replace(
            graph,
            edges=turns.taken(graph.edges),
            followers=turns.taken(graph.followers),
            tiers=turns.taken(graph.tiers),
            read_models=turns.taken(graph.read_models),
        )
        return Flows(own, flows.redis, flows.clock, LOW_BORDERS)

    async def consumer(share: int) -> None:
        """Two of them, as while a partition moves: each takes every other batch, and the first of a batch twice."""
        nonlocal applied
        apply = replace(taking().apply, announcements=Announced(look))
        at = share * batch
        while at < len(graph.events) or not followed:
            if at + batch > len(graph.events) and not followed:
                await turns.turn()
                continue
            events = graph.events[at : at + batch]
            await again(lambda events=events: apply(events))
            await again(lambda events=events: apply(events[:1]))
            at += 2 * batch
        applied += 1

    async def job() -> None:
        cross = taking().cross
        while applied < 2:
            await turns.turn()
            await again(cross)

    await turns.run(people(), consumer(0), consumer(1), job())
    tier, crossing = await flows.tier(ana)
    if tier >= Tier.PULL or (tier, crossing) == (Tier.BOTH, Crossing.DOWN):
        for follower in crowd:
            viewer = await graph.viewer(follower)
            assert (ana in viewer.follows) == (ana in viewer.pulled)
    for _ in range(3):
        await flows.cross()
    tier, crossing = await flows.tier(ana)
    for follower in crowd:
        viewer = await graph.viewer(follower)
        told = await flows.told(follower)
        if ana in viewer.follows and mark_of(tier):
            assert ana in viewer.pulled
            assert told is not None
            assert told.pulled == viewer.pulled
        if crossing is None and not mark_of(tier):
            assert not viewer.pulled


async def test_two_processes_on_one_postgresql_leave_no_follower_unmarked(
    redis: RedisCluster, postgres: Callable[[], str]
) -> None:
    """People and jobs of both and the consumer of the partition, really at once; a deadlock is tried again."""
    url = postgres()
    async with sql_graph_stores(url, redis) as one, sql_graph_stores(url, redis) as two:
        other = replace(two, events=one.events)
        ana, *crowd = await one.people(25)
        followed, applied = 0, False

        async def people(graph: GraphStores, seed: int) -> None:
            nonlocal followed
            chance = Random(seed)
            for _ in range(25):
                some = chance.sample(crowd, 3)
                change = graph.follow if chance.random() < 0.7 else graph.unfollow
                await again(lambda some=some, change=change: change(some, ana))
            followed += 1

        async def consumer() -> None:
            nonlocal applied
            apply = Flows(one, redis, SystemClock(), LOW_BORDERS).apply
            at = 0
            while followed < 2 or at < len(one.events):
                events = one.events[at : at + 5]
                at += len(events)
                await (again(lambda events=events: apply(events)) if events else asyncio.sleep(0.001))
            applied = True

        async def job(graph: GraphStores) -> None:
            cross = Flows(graph, redis, SystemClock(), LOW_BORDERS).cross
            while not applied:
                await again(cross)

        async with asyncio.TaskGroup() as group:
            group.create_task(consumer())
            for seed, graph in enumerate((one, other)):
                group.create_task(people(graph, seed))
                group.create_task(job(graph))
        flows = Flows(one, redis, SystemClock(), LOW_BORDERS)
        for _ in range(3):
            await flows.cross()
        standing = (await one.tiers.standings([ana]))[ana]
        assert standing.tier >= Tier.PULL
        followers = [follower async for _, page in one.edges.follower_pages([ana]) for follower in page]
        assert len(followers) == standing.follower_count
        for follower in followers:
            told = await flows.told(follower)
            assert told is not None
            assert ana in told.pulled


async def again(call: Callable[[], Awaitable[Any]]) -> None:
    """As the consumer and the rounds do: a machine that is busy makes a node look silent."""
    for _ in range(20):
        try:
            await call()
        except Unavailable:
            continue
        return
    raise AssertionError("refused twenty times")

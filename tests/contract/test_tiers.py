"""The contract of tiers (graph_svc.ports.Tiers), over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

import asyncio

from foundation.cards import decode_author
from foundation.cql.write_time import write_time
from foundation.model.tiers import Tier
from graph_svc.adapters.marks_cql import SET_MARK, mark_value
from graph_svc.model import Crossing, Standing, Step
from tests.kit.cassandra import migrated
from tests.kit.graph_stores import GraphStores, cql_graph_stores


async def standing(graph: GraphStores, author: int) -> Standing:
    return (await graph.tiers.standings([author]))[author]


async def crossing(graph: GraphStores, author: int) -> list[Standing]:
    """The store may outlive a test: of this author."""
    return [standing for standing in await graph.tiers.crossings() if standing.author_id == author]


async def settled(graph: GraphStores, author: int, step: Step, now_ms: int = 1) -> None:
    assert await graph.tiers.settle(await standing(graph, author), step, now_ms=now_ms)


async def test_a_new_author_is_pushed_and_counts_come_from_the_followers_rows(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    await graph.followers.apply(await graph.follow([bo, cy], ana))
    found = await graph.tiers.standings([ana, bo, 99])
    assert found == {
        ana: Standing(ana, Tier.PUSH, None, 0, 2),
        bo: Standing(bo, Tier.PUSH, None, 0, 0),
    }
    assert await crossing(graph, ana) == []


async def test_a_step_is_taken_once_from_the_standing_that_was_read(graph: GraphStores) -> None:
    (ana,) = await graph.people(1)
    before = await standing(graph, ana)
    assert await graph.tiers.settle(before, Step(Tier.BOTH, Crossing.UP), now_ms=50)
    assert not await graph.tiers.settle(before, Step(Tier.BOTH, Crossing.UP), now_ms=60)
    assert await standing(graph, ana) == Standing(ana, Tier.BOTH, Crossing.UP, 50, 0)
    assert await crossing(graph, ana) == [await standing(graph, ana)]


async def test_no_two_standings_are_of_the_same_time_even_if_the_clock_steps_back(graph: GraphStores) -> None:
    (ana,) = await graph.people(1)
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP), now_ms=50)
    await settled(graph, ana, Step(Tier.PULL, None), now_ms=40)
    assert (await standing(graph, ana)).since_ms == 51
    assert await crossing(graph, ana) == []


async def test_the_author_record_tells_tier_and_followers_under_a_new_version(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.followers.apply(await graph.follow([bo], ana))
    before = decode_author(ana, (await graph.read_models.authors([ana]))[0])
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP))
    told = decode_author(ana, (await graph.read_models.authors([ana]))[0])
    assert before is not None
    assert told is not None
    assert (before.tier, told.tier, told.follower_count) == (Tier.PUSH, Tier.BOTH, 1)
    assert told.version > before.version


async def test_marks_follow_the_tier_and_each_change_is_a_new_version(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.follow([bo], ana)
    assert list(await graph.tiers.mark([(ana, bo)])) == []
    versions = [(await graph.viewer(bo)).version]
    steps = [
        (Step(Tier.BOTH, Crossing.UP), {ana}, set()),
        (Step(Tier.SUPER, Crossing.UP), {ana}, {ana}),
        (Step(Tier.PULL, Crossing.DOWN), {ana}, set()),
        (Step(Tier.PUSH, Crossing.DOWN), set(), set()),
    ]
    for step, pulled, supers in steps:
        await settled(graph, ana, step)
        assert list(await graph.tiers.mark([(ana, bo)])) == [bo]
        viewer = await graph.viewer(bo)
        assert (set(viewer.pulled), set(viewer.supers)) == (pulled, supers)
        versions.append(viewer.version)
    assert versions == sorted(set(versions))


async def test_marking_again_changes_nothing_but_tells_again(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    await graph.follow([bo, cy], ana)
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP))
    pairs = [(ana, cy), (ana, bo)]
    assert list(await graph.tiers.mark(pairs)) == sorted([bo, cy])
    version = (await graph.viewer(bo)).version
    assert list(await graph.tiers.mark(pairs)) == sorted([bo, cy])
    assert (await graph.viewer(bo)).version == version


async def test_only_follows_that_stand_are_marked(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    await graph.follow([bo], ana)
    await graph.unfollow([bo], ana)
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP))
    version = (await graph.viewer(bo)).version
    assert list(await graph.tiers.mark([(ana, bo), (ana, cy)])) == []
    assert (await graph.viewer(bo)).version == version
    assert not (await graph.viewer(bo)).pulled


async def test_a_follow_is_marked_from_the_start_and_an_unfollow_takes_the_mark(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP))
    await graph.follow([bo], ana)
    assert (await graph.viewer(bo)).pulled == {ana}
    await graph.unfollow([bo], ana)
    assert not (await graph.viewer(bo)).pulled
    await settled(graph, ana, Step(Tier.PUSH, None))
    await graph.follow([bo], ana)
    assert not (await graph.viewer(bo)).pulled


async def test_a_page_of_followers_is_marked_at_once(graph: GraphStores) -> None:
    ana, *crowd = await graph.people(1_101)
    await graph.follow(crowd, ana)
    await settled(graph, ana, Step(Tier.BOTH, Crossing.UP))
    assert list(await graph.tiers.mark([(ana, follower) for follower in crowd])) == sorted(crowd)
    assert (await graph.viewer(crowd[-1])).pulled == {ana}


async def test_of_two_steps_at_the_same_moment_one_is_taken(graph: GraphStores) -> None:
    (ana,) = await graph.people(1)
    before = await standing(graph, ana)
    steps = [Step(Tier.BOTH, Crossing.UP), Step(Tier.PUSH, Crossing.DOWN), Step(Tier.PULL, None)]
    taken = await asyncio.gather(*(graph.tiers.settle(before, step, now_ms=50) for step in steps))
    assert taken.count(True) == 1
    after = await standing(graph, ana)
    assert Step(after.tier, after.crossing) == steps[taken.index(True)]
    assert await crossing(graph, ana) == ([after] if after.crossing is not None else [])


async def test_a_mark_of_an_older_tier_that_comes_late_changes_nothing(keyspaces: dict[str, str]) -> None:
    async with migrated(keyspaces, "graph_svc.adapters") as cql, cql_graph_stores(keyspaces) as graph:
        ana, bo = await graph.people(2)
        (followed,) = await graph.follow([bo], ana)
        at = write_time(followed.change_id)
        await settled(graph, ana, Step(Tier.BOTH, Crossing.UP), now_ms=50)
        await settled(graph, ana, Step(Tier.PUSH, Crossing.DOWN), now_ms=60)
        await graph.tiers.mark([(ana, bo)])
        await cql.execute(SET_MARK, (at, mark_value(Tier.BOTH, 50), bo, ana))
        assert not (await graph.viewer(bo)).pulled
        # And of the same mark as there is, but newer: what lies between can't come after it.
        await settled(graph, ana, Step(Tier.BOTH, Crossing.UP), now_ms=70)
        await settled(graph, ana, Step(Tier.PUSH, None), now_ms=80)
        await graph.tiers.mark([(ana, bo)])
        await cql.execute(SET_MARK, (at, mark_value(Tier.BOTH, 70), bo, ana))
        assert not (await graph.viewer(bo)).pulled

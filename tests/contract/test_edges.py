"""The contract of edges (graph_svc.ports.Edges), over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from foundation.events.envelope import decode
from foundation.events.outbox import slot_key
from foundation.events.port import GRAPH_BY_FOLLOWEE, PRIVACY
from graph_svc.adapters.changes_cql import Change, Kind
from graph_svc.model import FollowChange, FollowOutcome, Relationship
from tests.kit.graph_stores import IDS, LIMIT, GraphStores, applied_follows, cql_graph_stores

STRANGERS = Relationship(following=False, followed_by=False, blocking=False, blocked_by=False, muting=False)


async def test_a_follow_and_its_event_are_kept_together(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    change = FollowChange(IDS.next(), ana, bo)
    result = await graph.edges.follow([change], limit=LIMIT)
    (published,) = result.published
    assert published.change_id == change.change_id
    stored = [event for event in await graph.outbox.events(slot_key(change.change_id)) if event.key == bo]
    assert stored == list(published.events)
    assert [event.topic for event in stored] == [GRAPH_BY_FOLLOWEE]
    assert decode(stored[0].value).version == change.change_id


async def test_following_again_changes_nothing_and_publishes_nothing(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    assert await graph.make_follow(ana, bo) is FollowOutcome.CHANGED
    assert await graph.make_follow(ana, bo) is FollowOutcome.UNCHANGED
    assert await graph.end_follow(ana, cy) is FollowOutcome.UNCHANGED
    assert len(graph.events) == 1
    assert (await graph.user(ana)).following_count == 1


async def test_nobody_follows_across_a_block_or_beyond_the_limit(graph: GraphStores) -> None:
    ana, bo, cy = await graph.people(3)
    await graph.block(bo, ana)
    assert await graph.make_follow(ana, bo) is FollowOutcome.BLOCKED_BY_THEM
    assert await graph.make_follow(bo, ana) is FollowOutcome.BLOCKING_THEM
    assert await graph.make_follow(ana, IDS.next()) is FollowOutcome.NO_SUCH_USER
    assert await graph.end_follow(ana, IDS.next()) is FollowOutcome.NO_SUCH_USER
    assert await graph.make_follow(ana, cy, limit=1) is FollowOutcome.CHANGED
    assert await graph.make_follow(bo, cy, limit=0) is FollowOutcome.LIMIT_REACHED


async def test_many_follows_at_once_stop_at_the_limit_and_count_once(graph: GraphStores) -> None:
    ana, *stars = await graph.people(6)
    pairs = [(ana, star) for star in [stars[0], stars[0], *stars[1:]]]
    changes = [FollowChange(IDS.next(), *pair) for pair in pairs]
    result = await graph.edges.follow(changes, limit=4)
    assert list(result.outcomes) == [
        FollowOutcome.CHANGED, FollowOutcome.UNCHANGED, FollowOutcome.CHANGED, FollowOutcome.CHANGED,
        FollowOutcome.CHANGED, FollowOutcome.LIMIT_REACHED,
    ]  # fmt: skip
    assert len(result.published) == 4
    assert (await graph.user(ana)).following_count == 4


async def test_a_block_ends_the_follows_of_both_and_unblocking_restores_none(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.make_follow(ana, bo)
    await graph.make_follow(bo, ana)
    assert sorted(await graph.block(ana, bo)) == [GRAPH_BY_FOLLOWEE, GRAPH_BY_FOLLOWEE, PRIVACY]
    assert await graph.edges.relationship(bo, ana) == dataclasses.replace(STRANGERS, blocked_by=True)
    assert await graph.block(ana, bo) == []
    await graph.deliver()
    assert [(user.follower_count, user.following_count) for user in (await graph.user(ana), await graph.user(bo))] == [
        (0, 0), (0, 0),
    ]  # fmt: skip
    assert await graph.unblock(ana, bo) == [PRIVACY]
    assert await graph.unblock(ana, bo) == []
    assert await graph.edges.relationship(ana, bo) == STRANGERS
    assert await graph.make_follow(bo, ana) is FollowOutcome.CHANGED


async def test_blocks_of_both_are_kept_apart(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    assert await graph.block(ana, bo) == [PRIVACY]
    assert await graph.block(bo, ana) == [PRIVACY]
    await graph.unblock(ana, bo)
    assert await graph.edges.relationship(ana, bo) == dataclasses.replace(STRANGERS, blocked_by=True)
    assert list((await graph.rows.viewer_facts([ana]))[ana].blocks) == [bo]


async def test_mutes_are_of_one_side(graph: GraphStores) -> None:
    ana, bo = await graph.people(2)
    await graph.edges.mute(ana, bo)
    await graph.edges.mute(ana, bo)
    assert await graph.edges.relationship(ana, bo) == dataclasses.replace(STRANGERS, muting=True)
    assert await graph.edges.relationship(bo, ana) == STRANGERS
    await graph.edges.unmute(ana, bo)
    assert await graph.edges.relationship(ana, bo) == STRANGERS


async def test_lists_go_down_from_the_newest_follow_page_by_page(graph: GraphStores) -> None:
    star, *fans = await graph.people(6)
    for fan in fans:
        await graph.make_follow(fan, star)
        await graph.make_follow(star, fan)
    await graph.deliver()
    for listed in (graph.edges.followers, graph.edges.following):
        found = []
        before = 0
        while page := await listed(star, before=before, limit=2):
            assert len(page) <= 2
            found += [entry.user.user_id for entry in page]
            before = page[-1].place
        assert found == fans[::-1]


async def test_pages_of_followers_come_user_after_user(graph: GraphStores) -> None:
    star, nobody, other, *fans = await graph.people(1_203)
    changes = [FollowChange(IDS.next(), fan, star) for fan in fans]
    changes.append(FollowChange(IDS.next(), star, other))
    result = await graph.edges.follow(changes, limit=LIMIT)
    await graph.followers.apply(applied_follows([event for each in result.published for event in each.events]))
    pages = [page async for page in graph.edges.follower_pages([other, star, nobody, star])]
    assert [(user_id, len(page)) for user_id, page in pages] == [(star, 1_000), (star, 200), (other, 1)]
    assert sorted(follower for _, page in pages[:2] for follower in page) == fans


@pytest.mark.parametrize("kind", [Kind.FOLLOW, Kind.UNFOLLOW, Kind.BLOCK])
async def test_the_sweeper_completes_what_was_noted_and_never_applied(keyspaces: dict[str, str], kind: Kind) -> None:
    async with cql_graph_stores(keyspaces) as graph:
        assert graph.changes is not None
        ana, bo = await graph.people(2)
        if kind is not Kind.FOLLOW:
            await graph.make_follow(ana, bo)
            await graph.deliver()
        version = (await graph.viewer(ana)).version
        change = Change.of(kind, IDS.next(), ana, bo)
        await graph.changes.note([change])
        unchanged = await graph.edges.relationship(ana, bo)
        assert (unchanged.following, unchanged.blocking) == (kind is not Kind.FOLLOW, False)
        swept = await graph.outbox.events(slot_key(change.change_id))
        assert change.event in swept
        changed = await graph.edges.relationship(ana, bo)
        assert (changed.following, changed.blocking) == (kind is Kind.FOLLOW, kind is Kind.BLOCK)
        assert (await graph.viewer(ana)).version > version
        await graph.followers.apply(applied_follows([change.event]))
        if kind is not Kind.BLOCK:
            assert (await graph.user(bo)).follower_count == (kind is Kind.FOLLOW)


async def test_what_is_applied_late_undoes_nothing(keyspaces: dict[str, str]) -> None:
    async with cql_graph_stores(keyspaces) as graph:
        assert graph.changes is not None
        ana, bo = await graph.people(2)
        late = Change.of(Kind.FOLLOW, IDS.next(), ana, bo)
        await graph.changes.note([late])
        await graph.block(bo, ana)
        await graph.unblock(bo, ana)
        await graph.changes.apply([late])
        assert await graph.edges.relationship(ana, bo) == STRANGERS
        assert await graph.followers.apply(applied_follows([late.event])) == []


async def test_follows_and_blocks_at_the_same_moment_never_leave_a_follow_across_a_block(
    keyspaces: dict[str, str],
) -> None:
    async with cql_graph_stores(keyspaces) as graph:
        for _ in range(20):
            ana, bo = await graph.people(2)
            await asyncio.gather(graph.block(bo, ana), graph.make_follow(ana, bo), graph.make_follow(bo, ana))
            assert await graph.edges.relationship(ana, bo) == dataclasses.replace(STRANGERS, blocked_by=True)
            await graph.deliver()
            assert (await graph.user(bo)).follower_count == 0


async def test_an_unfollow_whose_id_is_older_than_the_follow_still_ends_it(keyspaces: dict[str, str]) -> None:
    async with cql_graph_stores(keyspaces) as graph:  # two workers' clocks differ by a moment
        ana, bo = await graph.people(2)
        early = IDS.next()
        await graph.make_follow(ana, bo)
        await graph.edges.unfollow([FollowChange(early, ana, bo)])
        assert not (await graph.edges.relationship(ana, bo)).following

"""The contract of posts (post_svc.ports.Posts), over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from foundation.cards import TOMBSTONE_VERSION
from foundation.events.cql_outbox import CqlOutbox
from foundation.events.envelope import decode
from foundation.events.outbox import Outbox, slot_key
from foundation.events.sql_outbox import SqlOutbox
from foundation.model.clock import DAY_MS, SystemClock
from foundation.model.ids import Snowflakes
from foundation.model.tiers import Tier
from foundation.sql.database import open_database
from foundation.visibility import PostState
from post_svc.adapters.posts_cql import CqlPosts, post_sources
from post_svc.adapters.posts_sql import SqlPosts
from post_svc.adapters.tables import OPEN_SLOTS, POST_CHANGES, POST_TABLES, POSTS
from post_svc.model import CreateOutcome, Draft, NewPost, Patch
from post_svc.ports import Posts
from tests.kit.cassandra import migrated

IDS = Snowflakes(SystemClock())
ANA, BO = IDS.next(), IDS.next()
"""Fresh ones for each test: the stores outlive it."""


@dataclass
class Store:
    posts: Posts
    outbox: Outbox


@pytest.fixture(params=["sqlite", "postgresql", "cassandra"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    global ANA, BO
    ANA, BO = IDS.next(), IDS.next()
    if request.param == "cassandra":
        keyspaces = request.getfixturevalue("keyspaces")
        async with migrated(keyspaces, "post_svc.adapters") as cql:
            clock = SystemClock()
            swept = CqlOutbox(cql, post_sources(), clock, worker=IDS.node)
            yield Store(CqlPosts(cql, swept, clock), swept)
        return
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres")()
    async with open_database(url, POST_TABLES) as database:
        yield Store(SqlPosts(database), SqlOutbox(database, OPEN_SLOTS, [POSTS, POST_CHANGES]))


@pytest.fixture
def posts(store: Store) -> Posts:
    return store.posts


async def made(posts: Posts, author: int = 0, caption: str = "hello", request: str = "", now_ms: int = 0) -> int:
    new = NewPost(IDS.next(), author or ANA, Draft(caption, ("sun",)), request)
    (created,) = await posts.create([new], now_ms=now_ms)
    assert created.outcome is CreateOutcome.CREATED
    return created.post_id


async def test_a_post_and_its_event_are_one_write(store: Store) -> None:
    posts = store.posts
    new = NewPost(IDS.next(), ANA, Draft("hello", ("sun",)), author_tier=Tier.PULL, author_followers=12_000)
    (created,) = await posts.create([new], now_ms=0)
    post_id = created.post_id
    (event,) = [event for event in await store.outbox.events(slot_key(post_id)) if event.key == ANA]
    assert event.topic == "posts.created"
    assert [one.value for one in created.events] == [event.value]
    told = decode(event.value).post_created
    assert (told.post_id, told.author_tier, told.author_followers) == (post_id, Tier.PULL, 12_000)
    stored = (await posts.get([post_id, IDS.next()]))[post_id]
    assert (stored.author_id, stored.draft, stored.state, stored.version) == (
        ANA, Draft("hello", ("sun",)), PostState.ACTIVE, 1,
    )  # fmt: skip


async def test_a_request_is_answered_once_for_a_day(posts: Posts) -> None:
    first = await made(posts, request="r")
    again, other, foreign = [
        (await posts.create([NewPost(IDS.next(), author, Draft(caption, ("sun",)), "r")], now_ms=1))[0]
        for author, caption in ((ANA, "hello"), (ANA, "other"), (BO, "hello"))
    ]
    assert (again.outcome, again.post_id, list(again.events)) == (CreateOutcome.REPEATED, first, [])
    assert other.outcome is CreateOutcome.REQUEST_MISMATCH
    assert foreign.outcome is CreateOutcome.CREATED
    assert await made(posts, request="r", now_ms=DAY_MS + 1) != first


async def test_updates_grow_the_version_and_repeat_harmlessly(posts: Posts) -> None:
    post_id = await made(posts)
    changed = await posts.update(post_id, ANA, Patch(caption="new"), change_id=IDS.next())
    assert changed is not None
    assert changed.post.version > 1
    assert changed.post.draft == Draft("new", ("sun",))
    again = await posts.update(post_id, ANA, Patch(caption="new"), change_id=IDS.next())
    assert again is not None
    assert (again.post.version, list(again.events)) == (changed.post.version, [])
    assert await posts.update(post_id, BO, Patch(caption="mine"), change_id=IDS.next()) is None


async def test_a_delete_is_for_good(posts: Posts) -> None:
    post_id = await made(posts)
    assert await posts.delete(post_id, BO, change_id=IDS.next()) is None
    deleted = await posts.delete(post_id, ANA, change_id=IDS.next())
    assert deleted is not None
    assert (deleted.post.state, deleted.post.version) == (PostState.DELETED, TOMBSTONE_VERSION)
    assert {event.topic for event in deleted.events} == {"posts.deleted", "privacy"}
    again = await posts.delete(post_id, ANA, change_id=IDS.next())
    assert again is not None
    assert list(again.events) == []
    assert await posts.update(post_id, ANA, Patch(caption="back"), change_id=IDS.next()) is None
    assert await posts.by_author(ANA, before_id=0, limit=10) == []


async def test_recent_is_complete_above_its_floor(posts: Posts) -> None:
    before = IDS.next()
    mine = [await made(posts) for _ in range(6)]
    await posts.delete(mine[4], ANA, change_id=IDS.next())
    active = [post_id for post_id in reversed(mine) if post_id != mine[4]]
    recent = await posts.recent([ANA, BO], after_id=before, limit=3)
    assert list(recent[ANA].ids) == active[:3]
    assert recent[ANA].floor == active[3]
    assert (list(recent[BO].ids), recent[BO].floor) == ([], before)
    assert (await posts.recent([ANA], after_id=mine[2], limit=10))[ANA].floor == mine[2]


async def test_recent_goes_on_below_a_bound(posts: Posts) -> None:
    before = IDS.next()
    mine = [await made(posts) for _ in range(6)]
    first = (await posts.recent([ANA], after_id=before, limit=2))[ANA]
    second = (await posts.recent([ANA], after_id=before, before_id=first.floor + 1, limit=2))[ANA]
    rest = (await posts.recent([ANA], after_id=before, before_id=second.floor + 1, limit=9))[ANA]
    assert [*first.ids, *second.ids, *rest.ids] == mine[::-1]
    assert rest.floor == before
    assert (await posts.recent([ANA], after_id=before, before_id=before, limit=9))[ANA].ids in ([], ())


async def test_pages_of_an_author_go_down(posts: Posts) -> None:
    mine = [await made(posts) for _ in range(5)]
    first = await posts.by_author(ANA, before_id=0, limit=2)
    rest = await posts.by_author(ANA, before_id=first[-1].post_id, limit=10)
    assert [post.post_id for post in [*first, *rest]] == mine[::-1]

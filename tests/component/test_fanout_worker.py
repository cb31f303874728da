"""The fan-out worker over a real log and a real Valkey; followers come over gRPC from a graph that the test owns."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.post_events_pb2 import PostCreated
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from prometheus_client import REGISTRY
from sqlalchemy import delete

from fanout_worker.adapters.pressure_redis import Override, read_history, read_standing, set_override
from fanout_worker.composition import FANOUT_LARGE, FANOUT_POSTS, compose
from fanout_worker.flows.deliver_chunks import DeliverChunks
from fanout_worker.model import Level
from fanout_worker.settings import Settings
from feedmesh_cli.consumer_groups import CONSUMER_GROUPS
from foundation.cards import encode_card
from foundation.errors import Unavailable
from foundation.events import consumer
from foundation.events.envelope import decode, encode
from foundation.events.port import DEAD_LETTERS, FEED_FANOUT, POSTS_CREATED, RETRY_5S, Event, EventLog, Record
from foundation.events.sql_log import GROUP_OFFSETS, LOG_TABLES, SqlEventLog
from foundation.model.clock import SystemClock
from foundation.model.ids import id_at
from foundation.model.tiers import Tier
from foundation.redis.client import RedisCluster
from foundation.rpc.server import Access, Call, ServerSettings, Service, build_server
from foundation.rpc.tokens import DevIssuer
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log, open_redis
from foundation.sql.database import open_database
from foundation.timeline.gaps import RedisGaps
from foundation.timeline.port import ABSENT_AFTER_S, TTL_S
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines, route_key, timeline_key
from foundation.viewers import encode_viewer
from foundation.visibility import PostState, UserState
from tests.kit.eventually import eventually
from tests.kit.valkey import ValkeyCluster

KEY = "an internal key of a test"
GROUPS = {name: topics for name, topics in CONSUMER_GROUPS.items() if name.startswith("fanout.")}
CLOCK = SystemClock()
NOW = id_at(CLOCK.now_ms())
HOUR = id_at(CLOCK.now_ms()) - id_at(CLOCK.now_ms() - 3_600_000)
ANA, BO, CY = 500_001, 500_002, 500_003


@dataclass
class Graph:
    """Who follows whom, as graph_svc would tell."""

    followers: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    failing: bool = False

    async def StreamFollowers(
        self, request: graph_pb.StreamFollowersRequest, _: Call
    ) -> AsyncIterator[graph_pb.StreamFollowersResponse]:
        if self.failing:
            raise Unavailable("STORE_UNAVAILABLE")
        for user_id in sorted(request.user_ids):
            followers = self.followers[user_id]
            for start in range(0, len(followers), 1_000):
                page = np.array(followers[start : start + 1_000], dtype="<i8").tobytes()
                yield graph_pb.StreamFollowersResponse(user_id=user_id, follower_ids=page)

    async def GetViewerGraph(self, request: graph_pb.GetViewerGraphRequest, _: Call) -> graph_pb.GetViewerGraphResponse:
        follows = {user: [who for who, those in self.followers.items() if user in those] for user in request.user_ids}
        return graph_pb.GetViewerGraphResponse(
            viewers=[
                encode_viewer(version=1, state=UserState.ACTIVE, follows=those, blocks=[], mutes=[])
                for those in follows.values()
            ]
        )

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            return None
        raise AttributeError(name)


@dataclass
class Posts:
    """Posts as post_svc would tell: all that were not deleted are ANA's."""

    deleted: set[int] = field(default_factory=set)

    async def BatchGetPosts(self, request: post_pb.BatchGetPostsRequest, _: Call) -> post_pb.BatchGetPostsResponse:
        ids = [post_id for post_id in request.post_ids if post_id not in self.deleted]
        card = encode_card(author_id=ANA, state=PostState.ACTIVE, version=1, encoded=b"")
        return post_pb.BatchGetPostsResponse(post_ids=ids, cards=[card] * len(ids))

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            return None
        raise AttributeError(name)


@dataclass
class World:
    """A worker's surroundings."""

    settings: Settings
    log: EventLog
    redis: RedisCluster
    graph: Graph
    posts: Posts

    def __post_init__(self) -> None:
        self.feeds = RedisTimelines(self.redis, FEED)
        self.author_posts = RedisTimelines(self.redis, AUTHOR_POSTS)

    async def warm(self, *owners: int) -> None:
        """Give them feeds."""
        await self.redis.execute([("RPUSH", timeline_key(FEED, owner), 0) for owner in owners], timeout_s=5)

    async def warm_author(self, author: int) -> None:
        """Give them a list of their own posts."""
        await self.redis.execute([("RPUSH", timeline_key(AUTHOR_POSTS, author), 0)])

    async def posted(self, *posts: PostCreated) -> None:
        await self.log.append([event(post) for post in posts])

    async def ids(self, owner: int) -> list[int]:
        return list((await self.feeds.read([owner]))[owner].ids)

    async def settled(self) -> None:
        async def caught_up() -> bool:
            return not any([await self.log.lag(group, topics) for group, topics in GROUPS.items()])

        await eventually(caught_up, timeout_s=20)

    async def records(self, topic: str) -> Sequence[Record]:
        await self.log.rewind("looking", [topic])
        return await self.log.poll("looking", [topic], max_records=10_000, wait_s=0)

    async def feeds_of(self, owners: Sequence[int]) -> list[list[bytes]]:
        """Their feeds, to the byte."""
        return await self.redis.execute([("LRANGE", timeline_key(FEED, owner), 0, -1) for owner in owners], timeout_s=5)

    async def authors_of(self, authors: Sequence[int]) -> list[list[bytes]]:
        """Their own timelines, to the byte."""
        return await self.redis.execute([("LRANGE", timeline_key(AUTHOR_POSTS, author), 0, -1) for author in authors])


def event(post: PostCreated) -> Event:
    return Event(POSTS_CREATED, post.author_id, encode(post, event_id=post.post_id, version=post.post_id))


def post(place: int, author_id: int, *, tier: int = Tier.PUSH, followers: int = 0) -> PostCreated:
    return PostCreated(post_id=NOW + place, author_id=author_id, author_tier=tier, author_followers=followers)


@pytest.fixture
async def world(tmp_path: Path, redis: RedisCluster, valkey: int) -> AsyncIterator[World]:
    issuer = DevIssuer.load_or_create(tmp_path)
    mesh = MeshSettings(
        redis=f"127.0.0.1:{valkey}",
        log_url=f"sqlite:///{tmp_path}/log.db",
        jwks_path=str(issuer.jwks_path),
        internal_key=KEY,
    )
    graph = Graph()
    service = Service(graph_pb.DESCRIPTOR.services_by_name["GraphInternalService"], graph, Access.INTERNAL)
    posts = Posts()
    post_service = Service(post_pb.DESCRIPTOR.services_by_name["PostInternalService"], posts, Access.INTERNAL)
    server = build_server(ServerSettings(), [service, post_service], auth=mesh.authenticator(CLOCK), clock=CLOCK)
    await server.start()
    try:
        async with open_log(mesh) as log:
            settings = Settings(mesh=replace(mesh, graph_svc=server.address), audit_every_nth=0)
            yield World(settings, log, redis, graph, posts)
    finally:
        await server.stop(1.0)


async def test_a_post_reaches_warm_followers_and_its_authors_own_list(world: World) -> None:
    world.graph.followers[ANA] = [1, 2, 3]
    await world.warm(1, 3)
    await world.warm_author(ANA)
    await world.posted(post(1, ANA), post(2, ANA))
    async with compose(world.settings):
        await world.settled()
    both = [NOW + 2, NOW + 1]
    assert [await world.ids(1), await world.ids(3)] == [both, both]
    assert (await world.author_posts.read([ANA]))[ANA].ids == both
    assert 2 not in await world.feeds.read([1, 2, 3])
    assert await world.records(FEED_FANOUT) == []


async def test_many_followers_go_through_the_queue(world: World) -> None:
    many = list(range(1, 2_502))
    world.graph.followers[ANA] = many
    await world.warm(*many)
    await world.posted(post(1, ANA, followers=len(many)))
    async with compose(world.settings):
        await world.settled()
    chunks = [decode(record.value).fanout_chunk for record in await world.records(FEED_FANOUT)]
    assert [(chunk.number, chunk.last, len(chunk.follower_ids) // 8) for chunk in chunks] == [
        (1, False, 1_000),
        (2, False, 1_000),
        (3, True, 501),
    ]
    assert all(elements == [b"%d" % (NOW + 1), b"0"] for elements in (await world.feeds_of(many)))
    (kept,) = await world.redis.execute([("GET", route_key(NOW + 1))])
    assert kept == b"chunks: 2501 followers, more than 1000"


async def test_a_count_that_is_out_of_date_loses_nobody(world: World) -> None:
    many = list(range(1, 2_002))
    world.graph.followers[ANA] = many
    await world.warm(*many)
    await world.posted(post(1, ANA, followers=40))
    async with compose(world.settings):
        await world.settled()
    assert all(elements == [b"%d" % (NOW + 1), b"0"] for elements in (await world.feeds_of(many)))
    assert len(await world.records(FEED_FANOUT)) == 2, "the first page is delivered at once"


async def test_who_is_pulled_is_not_pushed_and_kept_all_the_same(world: World) -> None:
    world.graph.followers[ANA] = [1]
    await world.warm(1)
    await world.warm_author(ANA)
    await world.posted(post(1, ANA, tier=Tier.PULL, followers=20_000))
    async with compose(world.settings):
        await world.settled()
    assert await world.ids(1) == []
    assert (await world.author_posts.read([ANA]))[ANA].ids == [NOW + 1]
    (kept,) = await world.redis.execute([("GET", route_key(NOW + 1))])
    assert kept == b"pull: tier PULL, 20000 followers of 10000 or more"


async def test_the_whole_log_twice_changes_nothing(world: World, tmp_path: Path) -> None:
    authors = {ANA: list(range(1, 2_400)), BO: list(range(1, 900, 3)), CY: [5, 6, 7]}
    world.graph.followers.update(authors)
    owners = sorted({owner for followers in authors.values() for owner in followers})
    await world.warm(*owners)
    for author in authors:
        await world.warm_author(author)
    turns = [author for _ in range(12) for author in authors]
    await world.posted(
        *(post(place, author, followers=len(authors[author])) for place, author in enumerate(turns, start=1))
    )
    async with compose(world.settings):
        await world.settled()
    before = [await world.feeds_of(owners), await world.authors_of(sorted(authors))]
    expected = [NOW + place for place, author in enumerate(turns, start=1) if author != CY]
    assert (await world.ids(1)) == expected[::-1]
    # As if every group were new: the log from its first record, chunks of chunks' posts too.
    async with open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database:
        await database.write(lambda connection: connection.execute(delete(GROUP_OFFSETS)))
    for group, topics in GROUPS.items():
        await world.log.rewind(group, topics)
    async with compose(world.settings):
        await world.settled()
    assert [await world.feeds_of(owners), await world.authors_of(sorted(authors))] == before


async def test_a_crash_between_the_chunks_and_the_commit_repeats_chunks_and_loses_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = list(range(1, 3_002))
    world.graph.followers[ANA] = many
    await world.warm(*many)
    await world.posted(post(1, ANA, followers=len(many)))
    commit, crashes = SqlEventLog.commit, 0

    async def crashing(self: SqlEventLog, group: str, records: Sequence[Record]) -> None:
        nonlocal crashes
        if group == FANOUT_LARGE and crashes < 2:
            crashes += 1
            raise Unavailable("LOG_UNAVAILABLE")
        await commit(self, group, records)

    monkeypatch.setattr(SqlEventLog, "commit", crashing)
    monkeypatch.setattr(consumer, "BACKOFF_S", (0.01,))
    async with compose(world.settings):
        await world.settled()
    assert crashes == 2
    assert len(await world.records(FEED_FANOUT)) == 3 * 4
    assert all(elements == [b"%d" % (NOW + 1), b"0"] for elements in (await world.feeds_of(many)))


async def test_nothing_of_a_post_is_committed_before_its_last_chunk_is_in_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.graph.followers[ANA] = list(range(1, 40_002))
    await world.posted(post(1, ANA, followers=40_001))
    order: list[str] = []
    append, commit = SqlEventLog.append, SqlEventLog.commit

    async def appending(self: SqlEventLog, events: Sequence[Event]) -> None:
        await append(self, events)
        order.extend(event.topic for event in events)

    async def committing(self: SqlEventLog, group: str, records: Sequence[Record]) -> None:
        if group == FANOUT_LARGE:
            order.append("commit")
        await commit(self, group, records)

    monkeypatch.setattr(SqlEventLog, "append", appending)
    monkeypatch.setattr(SqlEventLog, "commit", committing)
    async with compose(world.settings):
        await world.settled()
    assert order == [FEED_FANOUT] * 41 + ["commit"]


async def test_records_that_make_no_sense_are_left_out_and_hold_up_nothing(world: World) -> None:
    world.graph.followers[ANA] = [1]
    await world.warm(1)
    torn = [
        FanoutChunk(post_ids=[NOW], author_id=BO, follower_ids=b"1234567"),
        FanoutChunk(post_ids=[], author_id=BO, follower_ids=bytes(8)),
        FanoutChunk(post_ids=[NOW], author_id=BO, follower_ids=(-1).to_bytes(8, "little", signed=True)),
        FanoutChunk(post_ids=[-NOW], author_id=BO, follower_ids=(1).to_bytes(8, "little")),
    ]
    await world.log.append([Event(FEED_FANOUT, 1, encode(chunk, event_id=1, version=1)) for chunk in torn])
    await world.log.append([Event(POSTS_CREATED, 1, b"no envelope")])
    await world.posted(
        PostCreated(post_id=-5, author_id=ANA), PostCreated(post_id=5), post(1, ANA, tier=77), post(2, ANA)
    )
    async with compose(world.settings):
        await world.settled()
    assert await world.ids(1) == [NOW + 2, NOW + 1]
    letters = await world.records(DEAD_LETTERS)
    assert {letter.headers["x-orig-topic"] for letter in letters} == {POSTS_CREATED}
    assert {letter.headers["x-group"] for letter in letters} == {FANOUT_POSTS, FANOUT_LARGE}


async def test_a_chunk_that_fails_for_good_unlinks_its_followers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.graph.followers[ANA] = list(range(1, 1_502))
    await world.warm(1, 1_501, 5_000)

    async def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(DeliverChunks, "__call__", broken)
    await world.posted(post(1, ANA, followers=1_501))
    async with compose(world.settings):
        await world.settled()
    assert set(await world.feeds.read([1, 1_501, 5_000])) == {5_000}, "skipping is unlinking"
    assert len(await world.records(DEAD_LETTERS)) == 2


async def test_a_chunk_of_which_a_hanging_node_took_nothing_comes_again(
    world: World, valkey_cluster: ValkeyCluster
) -> None:
    many = list(range(1, 1_001))
    nodes = ",".join(f"{host}:{port}" for host, port in valkey_cluster.addresses)
    settings = replace(world.settings, mesh=replace(world.settings.mesh, redis=nodes))
    chunk = FanoutChunk(post_ids=[NOW + 1], author_id=ANA, follower_ids=np.array(many).tobytes(), number=1, last=True)
    async with open_redis(settings.mesh) as redis:
        keys = [timeline_key(FEED, owner) for owner in many]
        await redis.execute([("RPUSH", key, 0) for key in keys], timeout_s=5)
        async with compose(settings):
            os.kill(valkey_cluster.pid(1), signal.SIGSTOP)
            try:
                await world.log.append([Event(FEED_FANOUT, 1, encode(chunk, event_id=1, version=1))])

                async def postponed() -> bool:
                    return bool(await world.records(RETRY_5S))

                await eventually(postponed, timeout_s=20)
            finally:
                os.kill(valkey_cluster.pid(1), signal.SIGCONT)
            await world.settled()
        lists = await redis.execute([("LRANGE", key, 0, -1) for key in keys], timeout_s=5)
    assert all(elements == [b"%d" % (NOW + 1), b"0"] for elements in lists)


async def test_a_limited_push_keeps_its_limit_and_others_pass_it(world: World) -> None:
    many = list(range(1, 3_001))
    world.graph.followers[ANA] = many
    settings = replace(
        world.settings,
        fanout_policy="rate_limited",
        inline_up_to=1_000,
        pull_from=1_500,
        rate_limited_up_to=10_000,
        rate_limit_per_s=4_000,
    )
    await world.warm(*many)
    await world.posted(post(1, ANA, tier=Tier.PULL, followers=len(many)))
    started = CLOCK.monotonic()
    async with compose(settings):
        await world.settled()
    assert CLOCK.monotonic() - started >= 0.5, "the third thousand waits for two of them"
    assert all(elements == [b"%d" % (NOW + 1), b"0"] for elements in (await world.feeds_of(many)))
    (kept,) = await world.redis.execute([("GET", route_key(NOW + 1))])
    assert kept == b"rate_limited: 3000 followers of 1500 or more, rate_limited"


async def test_level_2_unlinks_absentees_and_delivers_to_all_others(world: World) -> None:
    world.graph.followers[ANA] = [1, 2]
    await world.warm(1, 2)
    await world.redis.execute(
        [("EXPIRE", timeline_key(FEED, 1), TTL_S - 2 * ABSENT_AFTER_S), ("EXPIRE", timeline_key(FEED, 2), TTL_S)]
    )
    await set_override(world.redis, CLOCK, override(Level.PRESENT_ONLY))
    await world.posted(post(1, ANA))
    async with compose(world.settings):
        await world.settled()
    assert set(await world.feeds.read([1, 2])) == {2}
    assert await world.ids(2) == [NOW + 1]


async def test_level_3_leaves_posts_and_chunks_to_readers_and_says_so(world: World) -> None:
    many = list(range(1, 1_502))
    world.graph.followers.update({ANA: many, BO: [1]})
    await world.warm(*many)
    await world.warm_author(ANA)
    await world.warm_author(BO)
    large = FanoutChunk(
        post_ids=[NOW - HOUR], author_id=ANA, follower_ids=np.array(many[:9]).tobytes(), number=1, deliveries=9
    )
    await world.log.append([Event(FEED_FANOUT, 1, encode(large, event_id=1, version=1))])
    await set_override(world.redis, CLOCK, override(Level.PULL_ALL))
    await world.posted(post(1, ANA, followers=len(many)), post(2, BO))
    async with compose(world.settings):
        await world.settled()
    assert await world.ids(1) == []
    gaps = await RedisGaps(world.redis, CLOCK).read()
    for post_id in (NOW + 1, NOW + 2, NOW - HOUR):
        assert any(gap.from_id <= post_id <= gap.to_id for gap in gaps), post_id
    own = await world.author_posts.read([ANA, BO])
    assert (own[ANA].ids, own[BO].ids) == ([NOW + 1], [NOW + 2])
    assert len(await world.records(FEED_FANOUT)) == 1, "no chunks are made"


async def test_a_burst_goes_to_level_3_and_back_and_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "BACKOFF_S", (0.05,))
    settings = replace(world.settings, pressure_every_s=0.05)
    authors = {ANA: list(range(1, 1_202)), BO: [1, 2, 3]}
    world.graph.followers.update(authors)
    await world.warm(*authors[ANA])
    for author in authors:
        await world.warm_author(author)
    # The graph is away: nothing is finished, and what waits claims more deliveries than level 3 takes.
    world.graph.failing = True
    burst = [post(place, (ANA, BO)[place % 2], followers=(600_000, 3)[place % 2]) for place in range(1, 9)]
    await world.posted(*burst)
    async with compose(settings):

        async def at(level: Level) -> bool:
            return (await read_standing(world.redis, CLOCK)).level is level

        await eventually(lambda: at(Level.PULL_ALL))
        await world.settled()  # although the graph is still away
        await eventually(lambda: at(Level.NORMAL))
        world.graph.failing = False
        later = [post(place, ANA, followers=1_201) for place in range(20, 23)]
        await world.posted(*later)
        await world.settled()
        # Those three may have been taken for as many deliveries as the ones of the burst.
        await eventually(lambda: at(Level.NORMAL))
    levels = [change["level"] for change in await read_history(world.redis, 10)]
    assert levels[0] == Level.NORMAL
    assert Level.PULL_ALL in levels
    # As a reader would: what is in the list, and what the gaps send it to look for.
    gaps = await RedisGaps(world.redis, CLOCK).read()
    own = await world.author_posts.read([ANA, BO])
    for reader, followed in ((1, (ANA, BO)), (1_201, (ANA,))):
        found = {
            post_id
            for author in followed
            for post_id in own[author].ids
            if any(gap.from_id <= post_id <= gap.to_id for gap in gaps)
        } | set(await world.ids(reader))
        wanted = {one.post_id for one in [*burst, *later] if one.author_id in followed}
        assert found == wanted
    assert set(await world.ids(1_201)) >= {one.post_id for one in later}, "pushed again"


async def test_an_override_ends_by_itself_and_who_set_it_is_kept(world: World) -> None:
    settings = replace(world.settings, pressure_every_s=0.05)
    until_ms = CLOCK.now_ms() + 400
    await set_override(world.redis, CLOCK, replace(override(Level.SCALE_OUT), until_ms=until_ms))
    async with compose(settings):
        standing = await read_standing(world.redis, CLOCK)
        assert (standing.level, standing.by_lag, standing.workers) == (Level.SCALE_OUT, Level.NORMAL, 1)

        async def over() -> bool:
            return (await read_standing(world.redis, CLOCK)).override is None

        await eventually(over)
    (kept,) = await read_history(world.redis, 1)
    assert (kept["who"], kept["why"], kept["level"]) == ("ana@home", "a test", 1)


async def test_a_lost_delivery_is_seen_by_the_audit_and_nothing_else_is(world: World) -> None:
    mesh = replace(world.settings.mesh, post_svc=world.settings.mesh.graph_svc)
    settings = replace(world.settings, mesh=mesh, audit_every_nth=1, audit_per_s=10_000.0, audit_first_s=2.0)
    world.graph.followers.update({ANA: [1, 2, 3], BO: [4]})
    await world.warm(1, 2, 4)
    before = audited()
    now = id_at(CLOCK.now_ms())
    lost, gone = now + 1, now + 3
    async with compose(settings):
        await world.posted(
            *(PostCreated(post_id=now + place, author_id=who) for place, who in enumerate((ANA, ANA, BO), start=1))
        )
        await world.settled()
        # One delivery is lost, one is of a post that its author deleted meanwhile, and 3 is cold.
        await world.redis.execute([("LREM", timeline_key(FEED, 2), 1, lost), ("LREM", timeline_key(FEED, 4), 1, gone)])
        world.posts.deleted.add(gone)

        async def looked() -> bool:
            return audited()[0] >= before[0] + 6

        await eventually(looked, timeout_s=20)
    assert audited() == (before[0] + 6, before[1] + 1)


def audited() -> tuple[float, float]:
    """Feeds looked at in the first window, and violations."""
    return (
        REGISTRY.get_sample_value("feed_audit_checked_total", {"window": "2s"}) or 0.0,
        REGISTRY.get_sample_value("feed_audit_violations_total", {"window": "2s"}) or 0.0,
    )


def override(level: Level) -> Override:
    return Override(level=level, until_ms=CLOCK.now_ms() + 60_000, who="ana@home", why="a test")

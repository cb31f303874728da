"""Builds the feed service; the only module that knows which adapter is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from feedmesh.feed.v1 import feed_service_pb2

from feed_svc.adapters.author_posts import ReadThroughAuthorPosts
from feed_svc.adapters.fence_memory import REMEMBERED_S, FencedHomes, FencedShelf, MemoryFence
from feed_svc.adapters.heads_redis import RedisHeads
from feed_svc.adapters.homes_redis import RedisHomes
from feed_svc.adapters.hot_timelines import HotAuthorPosts, HotTimelines, whole_timelines
from feed_svc.adapters.kept_cards import KeptCards
from feed_svc.adapters.known_gaps import KnownGaps
from feed_svc.adapters.positions_sql import SqlPositions
from feed_svc.adapters.presence_redis import RedisPresence
from feed_svc.adapters.ranker_grpc import GrpcRanker
from feed_svc.adapters.recommender_grpc import GrpcRecommender
from feed_svc.adapters.seen_redis import RedisSeenPosts
from feed_svc.adapters.sessions_redis import RedisSessions
from feed_svc.adapters.shelf import ReadThroughShelf
from feed_svc.adapters.tables import FEED_TABLES
from feed_svc.edge.cursors import FeedCursors
from feed_svc.edge.handlers import FeedHandlers
from feed_svc.edge.priorities import PRIORITIES
from feed_svc.edge.records import PrivacyRecords
from feed_svc.flows.count_newer import CountNewer
from feed_svc.flows.explain_item import ExplainItem
from feed_svc.flows.fill_page import FillPage
from feed_svc.flows.frozen_heads import FrozenHeads
from feed_svc.flows.gather_candidates import GatherCandidates, PulledAuthors
from feed_svc.flows.get_feed import GetFeed
from feed_svc.flows.make_head import MakeHead
from feed_svc.flows.mark_seen import MarkSeen
from feed_svc.flows.mend_gaps import MendGaps
from feed_svc.flows.open_home import OpenHome
from feed_svc.flows.refresh_feed import RefreshFeed
from feed_svc.flows.resume_feed import ResumeFeed
from feed_svc.flows.save_position import SavePosition
from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.flows.watch_feed import WatchFeed
from feed_svc.flows.watch_heads import HeadWatch
from feed_svc.flows.whole_home import WholeHome
from feed_svc.ports import Fence, Positions
from feed_svc.settings import Settings
from foundation.card_changes import RedisCardChanges
from foundation.events.port import PRIVACY
from foundation.events.tail import Tail
from foundation.model.clock import Clock, SystemClock, SystemRandomness
from foundation.people import ReadThroughPeople
from foundation.rpc.channels import internal_channel
from foundation.rpc.server import Access, Server, Service, build_server
from foundation.rpc.unary import unary_channel
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_hot_keys, open_log, open_redis
from foundation.seal import Sealer
from foundation.sql.database import open_database
from foundation.telemetry.logging import logger
from foundation.timeline.gaps import RedisGaps
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines

AUTHORS_TIMEOUT_SHARE = 0.8
"""Of the time for assembling, what one call for authors' posts may take: the rest is for what was found without it."""
PRIVACY_WITHIN_S = 10.0
"""How long a start waits for the last hour of deletes and blocks."""


@asynccontextmanager
async def compose(settings: Settings) -> AsyncIterator[Server]:
    """The started service; torn down in reverse order."""
    mesh = settings.mesh
    clock = SystemClock()
    randomness = SystemRandomness()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(mesh))
        hot_keys = await stack.enter_async_context(open_hot_keys(mesh))
        store = _cql_positions if settings.database_url.startswith("cassandra:") else _sql_positions
        positions = await stack.enter_async_context(store(settings.database_url))
        graph = await stack.enter_async_context(internal_channel(mesh.graph_svc, mesh.internal_key))
        posts = await stack.enter_async_context(internal_channel(mesh.post_svc, mesh.internal_key))
        rank = await stack.enter_async_context(unary_channel(mesh.rank_svc, mesh.internal_key))
        people = ReadThroughPeople(redis, graph, timeout_s=settings.graph_timeout_ms / 1000)
        cache_timeout_s = settings.cache_timeout_ms / 1000
        fence = MemoryFence(clock)
        await stack.enter_async_context(_hearing_of_privacy(mesh, fence, clock))
        kept = KeptCards(clock, capacity=settings.kept_cards)
        await stack.enter_async_context(kept.running(redis, RedisCardChanges(redis, randomness)))
        shelf = FencedShelf(
            ReadThroughShelf(
                redis,
                posts=posts,
                people=people,
                kept=kept,
                capacity=settings.facts_capacity,
                read_within_s=cache_timeout_s,
            ),
            fence,
        )
        feeds = RedisTimelines(redis, FEED)
        assemble_timeout_s = settings.rebuild_timeout_ms / 1000
        timelines = RedisTimelines(redis, AUTHOR_POSTS, read_within_s=cache_timeout_s)
        read_through = ReadThroughAuthorPosts(timelines, posts, timeout_s=assemble_timeout_s * AUTHORS_TIMEOUT_SHARE)
        hot = HotTimelines(partial(whole_timelines, read_through, clock), clock)
        stack.push_async_callback(hot.close)
        author_posts = HotAuthorPosts(read_through, hot, partial(hot_keys.owners, AUTHOR_POSTS))
        open_home = OpenHome(
            homes=FencedHomes(
                RedisHomes(redis, kept, read_within_s=cache_timeout_s, recommendations=settings.recommendations), fence
            ),
            graph=people,
            author_posts=author_posts,
            timelines=feeds,
            clock=clock,
            randomness=randomness,
            rebuild_timeout_s=assemble_timeout_s,
        )
        sessions = RedisSessions(redis, within_s=cache_timeout_s)
        gather_candidates = GatherCandidates(
            sources=[PulledAuthors(author_posts=author_posts, timeout_s=settings.source_timeout_ms / 1000)]
        )
        ranker = GrpcRanker(rank, timeout_s=settings.rank_timeout_ms / 1000)
        presence = RedisPresence(redis, clock)
        await stack.enter_async_context(presence.running())
        recommender = None
        if settings.recommendations:
            recommender = GrpcRecommender(rank)
            await stack.enter_async_context(recommender.running())
        whole_home = WholeHome(
            open_home=open_home,
            mend_gaps=MendGaps(
                gaps=KnownGaps(RedisGaps(redis, clock), clock),
                author_posts=author_posts,
                timelines=feeds,
                timeout_s=assemble_timeout_s,
            ),
        )
        get_feed = GetFeed(
            whole_home=whole_home,
            gather_candidates=gather_candidates,
            make_head=MakeHead(ranker=ranker, shelf=shelf),
            frozen_heads=FrozenHeads(open_home=open_home, sessions=sessions),
            fill_page=FillPage(
                whole_home=whole_home,
                walk_feed=WalkFeed(author_posts=author_posts, shelf=shelf, timeout_s=assemble_timeout_s),
                shelf=shelf,
                timelines=feeds,
            ),
            clock=clock,
            randomness=randomness,
            presence=presence,
            answer_within_s=settings.answer_within_ms / 1000,
            recommender=recommender,
        )
        count_newer = CountNewer(open_home=open_home, gather_candidates=gather_candidates, shelf=shelf, clock=clock)
        heads = HeadWatch(RedisHeads(redis), randomness, capacity=settings.max_watchers)
        handlers = FeedHandlers(
            get_feed=get_feed,
            refresh_feed=RefreshFeed(
                get_feed=get_feed,
                gather_candidates=gather_candidates,
                count_newer=count_newer,
                shelf=shelf,
                clock=clock,
            ),
            mark_seen=MarkSeen(seen=RedisSeenPosts(redis)),
            save_position=SavePosition(positions=positions, clock=clock),
            resume_feed=ResumeFeed(positions=positions, sessions=sessions, clock=clock),
            watch_feed=WatchFeed(count=count_newer, heads=heads, clock=clock, life_s=settings.watch_life_s),
            explain_item=ExplainItem(
                get_feed=get_feed, gather_candidates=gather_candidates, ranker=ranker, shelf=shelf, clock=clock
            ),
            cursors=FeedCursors(Sealer({1: bytes.fromhex(settings.cursor_key)}, 1, randomness), clock),
        )
        server = build_server(
            mesh.server_settings(),
            [
                Service(
                    feed_service_pb2.DESCRIPTOR.services_by_name["FeedService"],
                    handlers,
                    Access.USER,
                    standing_methods=frozenset({"WatchFeed"}),
                    priorities=PRIORITIES,
                ),
            ],
            auth=mesh.authenticator(clock),
            clock=clock,
        )
        await server.start()
        stack.push_async_callback(server.stop, 5.0)
        # Ends before the server: watchers are told, instead of being waited for.
        await stack.enter_async_context(heads.running())
        yield server


@asynccontextmanager
async def _hearing_of_privacy(mesh: MeshSettings, fence: Fence, clock: Clock) -> AsyncIterator[None]:
    """The fence learns of the last hour before the first request, and of everything from then on."""
    async with open_log(mesh) as log:
        tail = Tail(
            log,
            group=f"feed.privacy.{mesh.region}.{mesh.worker}",
            topics=[PRIVACY],
            learn=PrivacyRecords(fence),
            clock=clock,
            back_s=REMEMBERED_S,
        )
        async with tail.running():
            if not await tail.caught_up(timeout_s=PRIVACY_WITHIN_S):
                # Feeds are safe without it but for a failover of the cache in the last hour.
                logger.warning("privacy_not_heard_yet", waited_s=PRIVACY_WITHIN_S)
            yield


@asynccontextmanager
async def _sql_positions(url: str) -> AsyncIterator[Positions]:
    async with open_database(url, FEED_TABLES) as database:
        yield SqlPositions(database)


@asynccontextmanager
async def _cql_positions(url: str) -> AsyncIterator[Positions]:
    # The extra `cluster` brings the driver; the embedded profile does without.
    from feed_svc.adapters.positions_cql import CqlPositions  # noqa: PLC0415
    from foundation.cql.migrations import open_keyspace  # noqa: PLC0415

    async with open_keyspace(url, "feed_svc.adapters") as cql:
        yield CqlPositions(cql)

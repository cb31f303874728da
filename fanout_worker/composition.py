"""Builds the worker; the only module that knows which adapter is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fanout_worker.adapters.audit import AuditedGraph, AuditedPosts, MeasuredAudit
from fanout_worker.adapters.chunks_log import LogChunks
from fanout_worker.adapters.decisions_redis import RedisDecisions
from fanout_worker.adapters.followers_grpc import GrpcFollowers
from fanout_worker.adapters.freshness_metrics import MeasuredFreshness
from fanout_worker.adapters.pressure_redis import SharedPressure
from fanout_worker.edge.audit_rounds import AuditRounds
from fanout_worker.edge.group_lag import GroupLag
from fanout_worker.edge.measured import Measured, chunk_deliveries, large_deliveries, small_deliveries
from fanout_worker.edge.records import (
    AuditedRecords,
    BackfillRecords,
    ChunkRecords,
    FanOutRecords,
    LargeFanOutRecords,
    UndeliverableRecords,
)
from fanout_worker.flows.audit_deliveries import AuditDeliveries
from fanout_worker.flows.backfill_follows import BackfillFollows
from fanout_worker.flows.deliver import Deliver
from fanout_worker.flows.deliver_chunks import DeliverChunks
from fanout_worker.flows.fan_out_posts import FanOutPosts
from fanout_worker.flows.unlink_feeds import UnlinkFeeds
from fanout_worker.model import Level
from fanout_worker.settings import Settings
from fanout_worker.stages.budget import Budget
from foundation.events.consumer import Consumer
from foundation.events.port import FEED_FANOUT, GRAPH_BY_FOLLOWER, POSTS_CREATED
from foundation.events.retry_consumers import retry_consumers
from foundation.model.clock import SystemClock, SystemRandomness
from foundation.rpc.channels import internal_channel
from foundation.rpc.server import Server, build_server
from foundation.runtime.resources import open_log, open_redis
from foundation.timeline.gaps import RedisGaps
from foundation.timeline.recent import ReadThroughRecentPosts
from foundation.timeline.redis import AUTHOR_POSTS, FEED, RedisTimelines

FANOUT_POSTS = "fanout.posts"
FANOUT_LARGE = "fanout.large"
FANOUT_CHUNKS = "fanout.chunks"
FANOUT_BACKFILL = "fanout.backfill"
FANOUT_AUDIT = "fanout.audit"
RECENT_TIMEOUT_S = 2.0


@asynccontextmanager
async def compose(settings: Settings) -> AsyncIterator[Server]:
    """The started worker and its health endpoint; torn down in reverse order."""
    mesh = settings.mesh
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(mesh))
        log = await stack.enter_async_context(open_log(mesh))
        graph = await stack.enter_async_context(internal_channel(mesh.graph_svc, mesh.internal_key))
        posts = await stack.enter_async_context(internal_channel(mesh.post_svc, mesh.internal_key))
        feeds = RedisTimelines(redis, FEED)
        author_posts = RedisTimelines(redis, AUTHOR_POSTS)
        followers = GrpcFollowers(graph)
        chunks = LogChunks(log, FANOUT_CHUNKS)
        gaps = RedisGaps(redis, clock)
        measured: dict[str, tuple[str, Measured]] = {}
        worker = SystemRandomness().token_bytes(6).hex()
        levels = SharedPressure(
            redis,
            GroupLag(log, measured),
            clock,
            worker=worker,
            highest_by_lag=Level(settings.highest_level_by_lag),
        )
        deliver = Deliver(feeds=feeds, freshness=MeasuredFreshness(clock), levels=levels)
        fan_out_posts = FanOutPosts(
            policy=settings.policy(),
            followers=followers,
            author_posts=author_posts,
            deliver=deliver,
            chunks=chunks,
            decisions=RedisDecisions(redis),
            gaps=gaps,
            levels=levels,
            clock=clock,
        )
        fan_out = FanOutRecords(fan_out_posts)
        fan_out_large = LargeFanOutRecords(fan_out_posts)
        budget = Budget(updates_per_s=settings.rate_limit_per_s, clock=clock)
        deliver_chunks = ChunkRecords(
            DeliverChunks(deliver=deliver, budget=budget, queue=chunks, gaps=gaps, levels=levels, clock=clock)
        )
        measured |= {
            FANOUT_POSTS: (POSTS_CREATED, Measured(fan_out, small_deliveries, clock)),
            FANOUT_LARGE: (POSTS_CREATED, Measured(fan_out_large, large_deliveries, clock)),
            FANOUT_CHUNKS: (FEED_FANOUT, Measured(deliver_chunks, chunk_deliveries, clock)),
        }
        undeliverable = UndeliverableRecords(UnlinkFeeds(followers=followers, feeds=feeds, author_posts=author_posts))
        recent = ReadThroughRecentPosts(author_posts, posts, timeout_s=RECENT_TIMEOUT_S)
        backfill = BackfillRecords(BackfillFollows(recent=recent, feeds=feeds))
        consumers = [
            *(
                Consumer(
                    log,
                    group=group,
                    topics=[topic],
                    handle=handler,
                    before_burial=undeliverable,
                    clock=clock,
                    max_records=settings.max_chunks if topic == FEED_FANOUT else settings.max_records,
                )
                for group, (topic, handler) in measured.items()
            ),
            Consumer(
                log,
                group=FANOUT_BACKFILL,
                topics=[GRAPH_BY_FOLLOWER],
                handle=backfill,
                clock=clock,
                max_records=settings.max_records,
            ),
            *retry_consumers(
                log,
                service="fanout",
                handlers={
                    FANOUT_POSTS: fan_out,
                    FANOUT_LARGE: fan_out_large,
                    FANOUT_CHUNKS: deliver_chunks,
                    FANOUT_BACKFILL: backfill,
                },
                clock=clock,
                before_burial=undeliverable,
            ),
        ]
        server = build_server(mesh.server_settings(), [], auth=mesh.authenticator(clock), clock=clock)
        await server.start()
        stack.push_async_callback(server.stop, 5.0)
        await stack.enter_async_context(levels.watching(settings.pressure_every_s))
        for consumer in consumers:
            # A replica that took over may lack the newest pushes (rule 5): doing them again changes nothing else.
            stack.callback(redis.on_primary_change(consumer.repeat_recent))
            await stack.enter_async_context(consumer.running())
        if settings.audit_every_nth:
            audit = AuditDeliveries(
                graph=AuditedGraph(redis, graph),
                posts=AuditedPosts(posts),
                recent=recent,
                feeds=feeds,
                gaps=gaps,
                report=MeasuredAudit(),
                clock=clock,
                every_nth=settings.audit_every_nth,
                per_s=settings.audit_per_s,
                windows_s=settings.audit_windows_s(),
            )
            noting = Consumer(
                log,
                group=FANOUT_AUDIT,
                topics=[POSTS_CREATED],
                handle=AuditedRecords(audit),
                clock=clock,
                max_records=settings.max_records,
            )
            await stack.enter_async_context(noting.running())
            await stack.enter_async_context(AuditRounds(audit).running())
        yield server

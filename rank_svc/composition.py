"""Builds the rank service; the only module that knows which adapter is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from feedmesh.rank.v1 import rank_service_pb2

from foundation.events.consumer import Consumer
from foundation.events.port import POSTS_CREATED, POSTS_UPDATED
from foundation.model.clock import SystemClock
from foundation.people import ReadThroughPeople
from foundation.rpc.admission import Priority
from foundation.rpc.channels import internal_channel
from foundation.rpc.server import Access, Server, Service, build_server
from foundation.runtime.resources import open_log, open_redis
from foundation.timeline.recent import ReadThroughRecentPosts
from foundation.timeline.redis import AUTHOR_POSTS, RedisTimelines
from rank_svc.adapters.feature_cache import CachedFeatures
from rank_svc.adapters.graph_grpc import GrpcGraph
from rank_svc.adapters.recommendations_redis import RedisRecommendations
from rank_svc.adapters.rule_model import rule_model
from rank_svc.adapters.scorer_onnx import onnx_scorer
from rank_svc.edge.handlers import RankHandlers
from rank_svc.edge.records import PostRecords
from rank_svc.flows.rank_candidates import RankCandidates
from rank_svc.flows.recommend_soon import RecommendSoon
from rank_svc.flows.refresh_recommendations import RefreshRecommendations
from rank_svc.flows.update_features import UpdateFeatures
from rank_svc.settings import Settings


@asynccontextmanager
async def compose(settings: Settings) -> AsyncIterator[Server]:
    """The started service; torn down in reverse order."""
    mesh = settings.mesh
    clock = SystemClock()
    model = settings.model_path or rule_model(
        recency=settings.recency_weight, engagement=settings.engagement_weight, affinity=settings.affinity_weight
    )
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(mesh))
        log = await stack.enter_async_context(open_log(mesh))
        scorer = await stack.enter_async_context(onnx_scorer(model))
        features = CachedFeatures(redis, capacity=settings.cache_rows)
        rank_candidates = RankCandidates(features=features, scorer=scorer, clock=clock)
        recommend_soon = None
        if settings.recommendations:
            graph = await stack.enter_async_context(internal_channel(mesh.graph_svc, mesh.internal_key))
            posts = await stack.enter_async_context(internal_channel(mesh.post_svc, mesh.internal_key))
            recommend_soon = RecommendSoon(
                RefreshRecommendations(
                    graph=GrpcGraph(redis, graph, ReadThroughPeople(redis, graph)),
                    recent_posts=ReadThroughRecentPosts(RedisTimelines(redis, AUTHOR_POSTS), posts, timeout_s=1.0),
                    features=features,
                    recommendations=RedisRecommendations(redis),
                    clock=clock,
                ),
                clock,
            )
            await stack.enter_async_context(recommend_soon.running())
        server = build_server(
            mesh.server_settings(),
            [
                Service(
                    rank_service_pb2.DESCRIPTOR.services_by_name["RankService"],
                    RankHandlers(rank_candidates, recommend_soon),
                    Access.INTERNAL,
                    priorities={"RequestRecommendations": Priority.BULK},
                )
            ],
            auth=mesh.authenticator(clock),
            clock=clock,
        )
        consumer = Consumer(
            log,
            group="rank.features",
            topics=[POSTS_CREATED, POSTS_UPDATED],
            handle=PostRecords(UpdateFeatures(features=features)),
            clock=clock,
        )
        await stack.enter_async_context(consumer.running())
        await server.start()
        stack.push_async_callback(server.stop, 5.0)
        yield server

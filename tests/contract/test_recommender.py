"""The contract of who makes recommendations (feed_svc.ports.Recommender), over a real server of both engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from feedmesh.rank.v1 import rank_service_pb2 as pb

from feed_svc.adapters.recommender_grpc import MAX_WAITING, GrpcRecommender
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.rpc.auth import Authenticator
from foundation.rpc.server import Access, Call, ServerSettings, Service, build_server
from foundation.rpc.tokens import DevIssuer, TokenVerifier
from foundation.rpc.unary import unary_channel
from tests.kit.eventually import eventually

KEY = "an internal key of a test"
CLOCK = SystemClock()
ANA, BO = 11, 12
TIMEOUT_S = 1.0
PAUSE_S = 0.5


class Rank:
    """Notes who was wished for; is closed until it is opened."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.open = asyncio.Event()
        self.fails = 0

    async def RequestRecommendations(
        self, request: pb.RequestRecommendationsRequest, _: Call
    ) -> pb.RequestRecommendationsResponse:
        self.asked.append(request.user_id)
        await self.open.wait()
        if self.fails:
            self.fails -= 1
            raise Unavailable("UNAVAILABLE")
        return pb.RequestRecommendationsResponse(accepted=True)

    async def RankCandidates(self, _: pb.RankCandidatesRequest, __: Call) -> pb.RankCandidatesResponse:
        raise AssertionError("nobody ranks here")


@pytest.fixture
def rank() -> Rank:
    return Rank()


@pytest.fixture(params=["native", "grpcio"])
async def recommender(request: pytest.FixtureRequest, rank: Rank, tmp_path: Path) -> AsyncIterator[GrpcRecommender]:
    async with _recommender(request.param, rank, tmp_path) as made:
        yield made


@asynccontextmanager
async def _recommender(engine: Any, rank: Rank, tmp_path: Path) -> AsyncIterator[GrpcRecommender]:
    verifier = TokenVerifier(
        DevIssuer.load_or_create(tmp_path).jwks(), issuer="feedmesh-dev", audience="feedmesh", clock=CLOCK
    )
    service = Service(pb.DESCRIPTOR.services_by_name["RankService"], rank, Access.INTERNAL)
    server = build_server(ServerSettings(engine=engine), [service], auth=Authenticator(verifier, KEY), clock=CLOCK)
    port = await server.start()
    async with unary_channel(f"127.0.0.1:{port}", KEY) as channel:
        made = GrpcRecommender(channel, timeout_s=TIMEOUT_S, pause_s=PAUSE_S)
        async with made.running():
            yield made
    rank.open.set()
    await server.stop(1.0)


async def test_a_wish_is_told_without_waiting_and_once_while_it_waits(recommender: GrpcRecommender, rank: Rank) -> None:
    recommender.wish(ANA)
    await eventually(lambda: _is(rank.asked, [ANA]))
    for viewer in (BO, ANA, BO):
        recommender.wish(viewer)
    rank.open.set()
    await eventually(lambda: _is(rank.asked, [ANA, BO, ANA]))


async def test_wishes_beyond_the_bound_are_dropped(recommender: GrpcRecommender, rank: Rank) -> None:
    recommender.wish(ANA)
    await eventually(lambda: _is(rank.asked, [ANA]))
    for viewer in range(100, 100 + MAX_WAITING + 50):
        recommender.wish(viewer)
    rank.open.set()
    told = [ANA, *range(100, 100 + MAX_WAITING)]
    await eventually(lambda: _is(rank.asked, told), timeout_s=10)


@pytest.mark.parametrize("way", ["failing", "silent"])
async def test_after_a_failure_it_pauses_and_goes_on(recommender: GrpcRecommender, rank: Rank, way: str) -> None:
    if way == "failing":
        rank.fails = 1
        rank.open.set()
    recommender.wish(ANA)
    await eventually(lambda: _is(rank.asked, [ANA]))
    began = time.monotonic()
    recommender.wish(BO)
    await eventually(lambda: _is(rank.asked, [ANA, BO]))
    assert time.monotonic() - began > PAUSE_S / 2


async def _is(asked: list[int], wanted: list[int]) -> bool:
    return asked == wanted

"""The one RPC wrapper over both engines, through a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import grpc
import pytest
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from foundation.errors import Exhausted, NotFound, Unauthenticated
from foundation.model.clock import SystemClock
from foundation.rpc.admission import Priority
from foundation.rpc.auth import INTERNAL_HEADER, Authenticator
from foundation.rpc.channels import internal_channel
from foundation.rpc.server import Access, Call, Server, ServerSettings, Service, build_server
from foundation.rpc.tokens import DevIssuer, TokenVerifier
from tests.kit.eventually import eventually

KEY = "an internal key of a test"
CLOCK = SystemClock()
PLACES = 20
"""Of a server: 20 for CRITICAL calls, 18 for USER, 15 for PREFETCH, 10 for BULK."""


def _never_called(name: str) -> Any:
    """The RPCs of a service that its test does not call."""
    if name[0].isupper():
        return None
    raise AttributeError(name)


class Feed:
    """GetFeed does what the test says; other RPCs are never called."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.calls = 0
        self.inside = 0

    async def GetFeed(self, request: feed_pb.GetFeedRequest, call: Call) -> bytes:
        self.calls += 1
        self.inside += 1
        try:
            return await self._answer(request, call)
        finally:
            self.inside -= 1

    async def _answer(self, request: feed_pb.GetFeedRequest, call: Call) -> bytes:
        match request.cursor:
            case "domain":
                raise NotFound("USER_NOT_FOUND", "no such user", user_id=7)
            case "bug":
                raise RuntimeError("a secret of the house")
            case "shared":
                of_others: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                of_others.cancel()
                return await of_others
            case "header":
                return feed_pb.GetFeedResponse(next_cursor=call.header("x-asked")).SerializeToString()
            case "quota":
                raise Exhausted("RATE_LIMITED")
            case "wait" | "bulk: wait":
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
        call.set_header("x-feed-quality", "normal")
        response = feed_pb.GetFeedResponse(next_cursor=f"{call.user_id} {call.deadline.remaining_s() < 6}")
        return response.SerializeToString()

    def __getattr__(self, name: str) -> Any:
        return _never_called(name)


class Standing:
    """A stream that the test ends."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.release = asyncio.Event()
        self.deadline_s = 0.0

    async def StreamFollowers(
        self, _: graph_pb.StreamFollowersRequest, call: Call
    ) -> AsyncGenerator[graph_pb.StreamFollowersResponse, None]:
        self.deadline_s = call.deadline.remaining_s()
        try:
            yield graph_pb.StreamFollowersResponse(user_id=1)
            await self.release.wait()
            yield graph_pb.StreamFollowersResponse(user_id=2)
        finally:
            self.ended.set()

    def __getattr__(self, name: str) -> Any:
        return _never_called(name)


class Graph:
    """A stream of three pages; other RPCs are never called."""

    async def StreamFollowers(
        self, _: graph_pb.StreamFollowersRequest, __: Call
    ) -> AsyncGenerator[graph_pb.StreamFollowersResponse, None]:
        for user_id in (1, 2, 3):
            yield graph_pb.StreamFollowersResponse(user_id=user_id)

    def __getattr__(self, name: str) -> Any:
        return _never_called(name)


def worth_of(request: feed_pb.GetFeedRequest) -> Priority:
    """The priority that the cursor begins with."""
    name = request.cursor.partition(":")[0].upper()
    return Priority[name] if name in Priority.__members__ else Priority.USER


class World:
    """A running server and a channel to it."""

    def __init__(self, server: Server, feed: Feed, channel: aio.Channel, issuer: DevIssuer) -> None:
        self.server = server
        self.feed = feed
        self.channel = channel
        self.stub = FeedServiceStub(channel)
        self.issuer = issuer

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.issuer.mint(42, 'ana', now_s=CLOCK.now_ms() // 1000)}"),)

    async def get(self, cursor: str = "", *, timeout: float = 5, **more: Any) -> feed_pb.GetFeedResponse:
        request = feed_pb.GetFeedRequest(cursor=cursor, **more)
        return await self.stub.GetFeed(request, metadata=self.metadata(), timeout=timeout)


@pytest.fixture(params=["native", "grpcio"])
async def world(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[World]:
    issuer = DevIssuer.load_or_create(tmp_path)
    verifier = TokenVerifier(issuer.jwks(), issuer="feedmesh-dev", audience="feedmesh", clock=CLOCK)
    feed = Feed()
    services = [
        Service(
            feed_pb.DESCRIPTOR.services_by_name["FeedService"], feed, Access.USER, priorities={"GetFeed": worth_of}
        ),
        Service(graph_pb.DESCRIPTOR.services_by_name["GraphInternalService"], Graph(), Access.INTERNAL),
    ]
    settings = ServerSettings(engine=request.param, max_concurrent=PLACES)
    server = build_server(settings, services, auth=Authenticator(verifier, KEY), clock=CLOCK)
    await server.start()
    async with aio.insecure_channel(server.address) as channel:
        yield World(server, feed, channel, issuer)
    feed.release.set()
    await server.stop(1.0)


def details(refused: aio.AioRpcError) -> Status:
    trailing = dict(iter(refused.trailing_metadata() or ()))
    return Status.FromString(cast("bytes", trailing["grpc-status-details-bin"]))


def info(refused: aio.AioRpcError) -> ErrorInfo:
    found = ErrorInfo()
    assert details(refused).details[0].Unpack(found)
    return found


async def test_the_user_is_that_of_the_token_and_headers_come_first(world: World) -> None:
    call = world.stub.GetFeed(feed_pb.GetFeedRequest(), metadata=world.metadata(), timeout=5)
    assert dict(iter(await call.initial_metadata()))["x-feed-quality"] == "normal"
    assert (await call).next_cursor == "42 True"


async def test_a_handler_may_read_what_a_caller_sent_beside_the_request(world: World) -> None:
    request = feed_pb.GetFeedRequest(cursor="header")
    for sent, read in ((("x-asked", "1"),), "1"), ((("x-other", "1"),), ""):
        answer = await world.stub.GetFeed(request, metadata=(*world.metadata(), *sent), timeout=5)
        assert answer.next_cursor == read


async def test_a_call_without_a_token_is_refused_before_its_handler(world: World) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.stub.GetFeed(feed_pb.GetFeedRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (info(refused.value).reason, info(refused.value).domain) == ("TOKEN_MISSING", "feedmesh")
    assert world.feed.calls == 0


async def test_a_domain_error_keeps_its_reason_and_data(world: World) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.get("domain")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert info(refused.value).reason == "USER_NOT_FOUND"
    assert dict(info(refused.value).metadata) == {"user_id": "7"}


@pytest.mark.parametrize("bug", ["bug", "shared"])
async def test_a_bug_says_nothing_but_an_id(world: World, bug: str) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.get(bug)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(refused.value)
    assert info(refused.value).metadata["error_id"]


async def test_rules_of_the_contract_name_the_field(world: World) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.get(limit=-1)
    violations = BadRequest()
    assert details(refused.value).details[1].Unpack(violations)
    assert [violation.field for violation in violations.field_violations] == ["limit"]
    assert world.feed.calls == 0


async def test_bytes_that_are_no_message_are_refused(world: World) -> None:
    raw = world.channel.unary_unary("/feedmesh.feed.v1.FeedService/GetFeed")
    with pytest.raises(aio.AioRpcError) as refused:
        await raw(b"\x12\x02\xff\xfe", metadata=world.metadata(), timeout=5)
    assert info(refused.value).reason == "REQUEST_MALFORMED"


async def test_throttling_says_when_to_come_back(world: World) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.get("quota")
    retry = RetryInfo()
    assert details(refused.value).details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 1


async def test_a_deadline_cancels_the_handler(world: World) -> None:
    with pytest.raises(aio.AioRpcError) as late:
        await world.get("wait", timeout=0.2)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await world.feed.cancelled.wait()


async def waiting_in(world: World, calls: int, cursor: str = "wait") -> list[asyncio.Future[Any]]:
    """So many more calls in their handlers."""
    inside = world.feed.inside + calls
    waiting = [asyncio.ensure_future(world.get(cursor)) for _ in range(calls)]

    async def arrived() -> bool:
        return world.feed.inside == inside

    await eventually(arrived)
    return waiting


async def refusal(world: World, cursor: str) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as refused:
        await world.get(cursor)
    return refused.value


async def test_a_full_server_refuses_the_lowest_class_first(world: World) -> None:
    waiting: list[asyncio.Future[Any]] = []
    for taken, refused, served in (
        (10, ["bulk"], ["prefetch", "user", "critical"]),
        (15, ["bulk", "prefetch"], ["user", "critical"]),
        (18, ["bulk", "prefetch", "user"], ["critical"]),
    ):
        waiting += await waiting_in(world, taken - len(waiting))
        for cursor in refused:
            assert info(await refusal(world, cursor)).reason == "OVERLOADED"
        for cursor in served:
            assert (await world.get(cursor)).next_cursor == "42 True"
    world.feed.release.set()
    await asyncio.gather(*waiting)
    assert (await world.get("bulk")).next_cursor == "42 True"


async def test_a_refusal_says_when_to_come_back_and_is_made_before_anything_is_read(world: World) -> None:
    await waiting_in(world, 18)
    with pytest.raises(aio.AioRpcError) as refused:
        await world.stub.GetFeed(feed_pb.GetFeedRequest(limit=-1), timeout=5)  # no token, and a broken rule
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info(refused.value).reason == "OVERLOADED"
    retry = RetryInfo()
    assert details(refused.value).details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 1


async def test_health_is_told_by_a_full_server(world: World) -> None:
    await waiting_in(world, 18)
    answer = await health_pb2_grpc.HealthStub(world.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_cancelled_and_failed_calls_leave_their_places(world: World) -> None:
    for cursor in ("domain", "bug", "quota"):
        with pytest.raises(aio.AioRpcError):
            await world.get(cursor)

    async def left() -> bool:
        return world.feed.inside == 0

    for call in await waiting_in(world, 9, "bulk: wait"):
        call.cancel()
    await eventually(left)
    # Ten fit only if none of those kept a place.
    waiting = await waiting_in(world, 10, "bulk: wait")
    world.feed.release.set()
    await asyncio.gather(*waiting)


async def test_services_show_the_key_and_streams_stream(world: World) -> None:
    request = graph_pb.StreamFollowersRequest(user_ids=[1])
    async with internal_channel(world.server.address, KEY) as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        assert [page.user_id async for page in channel.stream(stub.StreamFollowers, request, 5)] == [1, 2, 3]
    async with internal_channel(world.server.address, "some other key of a test") as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        with pytest.raises(Unauthenticated) as refused:
            _ = [page async for page in channel.stream(stub.StreamFollowers, request, 5)]
        assert refused.value.reason == "INTERNAL_KEY_INVALID"


async def test_health_says_serving(world: World) -> None:
    answer = await health_pb2_grpc.HealthStub(world.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(params=["native", "grpcio"])
async def standing(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[tuple[Server, Standing]]:
    issuer = DevIssuer.load_or_create(tmp_path)
    verifier = TokenVerifier(issuer.jwks(), issuer="feedmesh-dev", audience="feedmesh", clock=CLOCK)
    handlers = Standing()
    graph = graph_pb.DESCRIPTOR.services_by_name["GraphInternalService"]
    service = Service(graph, handlers, Access.INTERNAL, standing_methods=frozenset({"StreamFollowers"}))
    settings = ServerSettings(engine=request.param, max_concurrent=1, default_deadline_s=0.1)
    server = build_server(settings, [service], auth=Authenticator(verifier, KEY), clock=CLOCK)
    await server.start()
    yield server, handlers
    handlers.release.set()
    await server.stop(1.0)


async def test_a_standing_stream_is_no_load_and_has_no_deadline_of_ours(standing: tuple[Server, Standing]) -> None:
    server, handlers = standing
    async with aio.insecure_channel(server.address) as channel:
        stub = GraphInternalServiceStub(channel)
        request = graph_pb.StreamFollowersRequest(user_ids=[1])
        other = stub.StreamFollowers(request, metadata=((INTERNAL_HEADER, KEY),))
        assert (await other.read()).user_id == 1
        stream = stub.StreamFollowers(request, metadata=((INTERNAL_HEADER, KEY),))
        assert (await stream.read()).user_id == 1
        assert handlers.deadline_s > 60
        handlers.release.set()
        assert (await stream.read()).user_id == 2
        assert await stream.read() is aio.EOF


async def test_a_caller_who_leaves_ends_the_handler(standing: tuple[Server, Standing]) -> None:
    server, handlers = standing
    async with aio.insecure_channel(server.address) as channel:
        request = graph_pb.StreamFollowersRequest(user_ids=[1])
        stream = GraphInternalServiceStub(channel).StreamFollowers(request, metadata=((INTERNAL_HEADER, KEY),))
        assert (await stream.read()).user_id == 1
        stream.cancel()
        async with asyncio.timeout(5):
            await handlers.ended.wait()

"""The edge's configuration: accepted by Envoy, and doing what it says in front of a service that answers anything."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from feedmesh.feed.v1 import feed_service_pb2
from feedmesh.graph.v1 import graph_service_pb2, user_service_pb2
from feedmesh.post.v1 import post_service_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from bench.edge_limit import require_none_refused
from bench.loadgen import Generator
from feed_svc.settings import Settings as FeedSettings
from feedmesh_cli.children import start_child, tail
from feedmesh_cli.edge import EdgeSettings, bootstrap, envoy_binary, envoy_command, write_edge_config
from feedmesh_cli.failures import CliError
from feedmesh_cli.mesh_status import edge_ready
from feedmesh_cli.ports import MeshPorts, choose_ports
from foundation.model.clock import SystemClock
from foundation.rpc.errors import error_of
from foundation.rpc.server import ServerSettings
from foundation.rpc.tokens import DevIssuer
from tests.kit.eventually import eventually
from tests.kit.http import send

pytestmark = pytest.mark.envoy

SERVICES = ("feed_svc", "post_svc", "graph_svc")


def edge_settings(directory: Path, **changes: object) -> EdgeSettings:
    DevIssuer.load_or_create(directory)
    ports = choose_ports(None, MeshPorts)
    settings = EdgeSettings(
        port=ports.feed_svc,
        admin_port=ports.envoy_admin,
        jwks_path=directory / "jwks.json",
        services=dict.fromkeys(SERVICES, ("127.0.0.1:1",)),
    )
    return replace(settings, **changes)


@pytest.mark.parametrize("bench_target", ["", "127.0.0.1:2"])
async def test_envoy_accepts_the_configuration(tmp_path: Path, bench_target: str) -> None:
    settings = edge_settings(tmp_path, bench_target=bench_target, access_log=str(tmp_path / "access.log"))
    write_edge_config(settings, tmp_path / "envoy.yaml")
    child = await start_child(
        "validation", envoy_command(tmp_path / "envoy.yaml", validate=True), tmp_path / "envoy.log"
    )
    assert await child.wait() == 0, tail(child.log)


def test_only_public_services_are_routed(tmp_path: Path) -> None:
    text = json.dumps(bootstrap(edge_settings(tmp_path)))
    assert "feedmesh.graph.v1.GraphService" in text
    assert not re.findall(r"\w+InternalService|RankService|bench\.Noop", text)


def test_the_edge_lets_through_what_the_services_take(tmp_path: Path) -> None:
    targets = tuple(f"127.0.0.1:{port}" for port in range(1, 10))
    for cluster in bootstrap(edge_settings(tmp_path, services={"feed_svc": targets}))["static_resources"]["clusters"]:
        (breaker,) = cluster["circuit_breakers"]["thresholds"]
        taken = len(targets) * (ServerSettings().max_concurrent + FeedSettings().max_watchers)
        assert min(breaker["max_requests"], breaker["max_pending_requests"]) > taken


def test_only_what_certainly_reached_no_handler_is_retried_and_within_a_budget(tmp_path: Path) -> None:
    static = bootstrap(edge_settings(tmp_path))["static_resources"]
    asked = set(re.findall(r'"retry_on": "([^"]*)"', json.dumps(static)))
    assert asked == {"connect-failure,refused-stream,reset-before-request"}
    for cluster in static["clusters"]:
        assert cluster["circuit_breakers"]["thresholds"][0]["retry_budget"]["budget_percent"]["value"] <= 20


@dataclass
class Upstream:
    """Answers every RPC and remembers how it was called."""

    port: int = 0
    calls: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = details.method

        async def answer(_: bytes, context: aio.ServicerContext) -> bytes:
            if path == "/grpc.health.v1.Health/Check":
                return b"\x08\x01"
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            self.calls.append((path, metadata, context.time_remaining()))
            if path.endswith("/GetPost"):
                await self._refuse(context)
            if path.endswith(("/CreatePost", "/CreateUser")):
                await context.send_initial_metadata((("x-http-status", "201"),))
            else:
                await context.send_initial_metadata((("x-feed-quality", "normal"), ("x-http-status", "500")))
            return {
                "GetFeed": feed_service_pb2.GetFeedResponse(next_cursor="more"),
                "CreatePost": post_service_pb2.CreatePostResponse(post_id=2**60),
                "CreateUser": user_service_pb2.CreateUserResponse(),
                "Follow": graph_service_pb2.FollowResponse(),
            }[path.rsplit("/", 1)[1]].SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _refuse(self, context: aio.ServicerContext) -> None:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="POST_NOT_FOUND", domain="feedmesh"))
        status = status_pb2.Status(code=5, message="no such post", details=[detail])
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such post", trailers)


@dataclass
class Edge:
    """A running Envoy in front of the upstream."""

    address: str
    upstream: Upstream
    token: str
    """User 42, whose bucket holds 20 requests a minute."""
    other_token: str
    """User 43."""
    expired_token: str


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    upstream = Upstream()
    server = aio.server(handlers=[upstream])
    upstream.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    issuer = DevIssuer.load_or_create(tmp_path)
    now_s = SystemClock().now_ms() // 1000
    settings = edge_settings(
        tmp_path,
        services=dict.fromkeys(SERVICES, (f"127.0.0.1:{upstream.port}",)),
        user_requests_per_minute=20,
        open_requests_per_minute=10,
    )
    write_edge_config(settings, tmp_path / "envoy.yaml")
    envoy = await start_child("envoy", envoy_command(tmp_path / "envoy.yaml"), tmp_path / "envoy.log")
    try:
        await eventually(lambda: edge_ready(f"127.0.0.1:{settings.admin_port}"))
        yield Edge(
            address=f"127.0.0.1:{settings.port}",
            upstream=upstream,
            token=issuer.mint(42, "ana", now_s=now_s),
            other_token=issuer.mint(43, "bo", now_s=now_s),
            expired_token=issuer.mint(42, "ana", now_s=now_s - 1000, ttl_s=10),
        )
    finally:
        await envoy.stop(grace_s=2)
        await server.stop(0)


async def test_rest_is_transcoded_with_the_public_json(edge: Edge) -> None:
    answer = await send(edge.address, "GET", "/v1/feed?limit=3&mode=LATEST&unknown=1", token=edge.token)
    assert answer.status == 200
    assert answer.json == {
        "posts": [],
        "next_cursor": "more",
        "has_more": False,
        "feed_session_id": "",
        "quality": "FEED_QUALITY_UNSPECIFIED",
        "degraded_reasons": [],
        "cache_status": "CACHE_STATUS_UNSPECIFIED",
        "newest_id": "0",
    }
    assert answer.headers["x-feed-quality"] == "normal"


async def test_the_service_gets_the_token_the_user_and_a_deadline(edge: Edge) -> None:
    spoof = {"x-user-id": "7", "x-feedmesh-internal": "guess"}
    await send(edge.address, "GET", "/v1/feed", token=edge.token, headers=spoof)
    path, metadata, remaining_s = edge.upstream.calls[-1]
    assert path == "/feedmesh.feed.v1.FeedService/GetFeed"
    assert metadata["authorization"] == f"Bearer {edge.token}"
    assert metadata["x-user-id"] == "42"
    assert "x-feedmesh-internal" not in metadata
    assert 1 < remaining_s <= 2


async def test_creating_answers_201_and_nothing_else_does(edge: Edge) -> None:
    created = await send(edge.address, "POST", "/v1/posts", body='{"caption": "hello"}', token=edge.token)
    assert (created.status, created.json["post_id"]) == (201, str(2**60))
    assert "x-http-status" not in created.headers
    followed = await send(edge.address, "POST", "/v1/users/7/follow", token=edge.token)
    assert followed.status == 200


async def test_a_user_is_created_without_a_token_and_cannot_pose_as_another(edge: Edge) -> None:
    answer = await send(edge.address, "POST", "/v1/users", body='{"username": "cy"}', headers={"x-user-id": "42"})
    assert answer.status == 201
    assert "x-user-id" not in edge.upstream.calls[-1][1]


async def test_an_error_of_a_service_is_json_with_its_reason(edge: Edge) -> None:
    answer = await send(edge.address, "GET", "/v1/posts/5", token=edge.token)
    assert (answer.status, answer.reason) == (404, "POST_NOT_FOUND")


@pytest.mark.parametrize(
    ("request_of", "status", "reason"),
    [
        (("GET", "/v1/feed", None, None), 401, "TOKEN_MISSING"),
        (("GET", "/v1/feed", None, "not.a.token"), 401, "TOKEN_INVALID"),
        (("GET", "/v1/feed", None, "expired"), 401, "TOKEN_EXPIRED"),
        (("GET", "/v1/users", None, None), 401, "TOKEN_MISSING"),
        (("GET", "/v1/nothing", None, "good"), 404, "ROUTE_NOT_FOUND"),
        (("GET", "/somewhere", None, "good"), 404, "ROUTE_NOT_FOUND"),
        (("POST", "/feedmesh.graph.v1.GraphInternalService/ImportUsers", "{}", "good"), 404, "ROUTE_NOT_FOUND"),
        (("POST", "/v1/posts", '{"caption', "good"), 400, "REQUEST_MALFORMED"),
        (("POST", "/v1/posts", '{"caption": "' + "a" * 300_000 + '"}', "good"), 413, "REQUEST_TOO_LARGE"),
    ],
)
async def test_what_the_edge_refuses_is_json_with_a_reason(
    edge: Edge, request_of: tuple[str, str, str | None, str | None], status: int, reason: str
) -> None:
    method, path, body, which = request_of
    token = {"good": edge.token, "expired": edge.expired_token}.get(which or "", which)
    answer = await send(edge.address, method, path, body=body, token=token)
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.headers["content-type"] == "application/json"
    assert edge.upstream.calls == []


async def test_a_header_with_an_underscore_is_refused(edge: Edge) -> None:
    answer = await send(edge.address, "GET", "/v1/feed", token=edge.token, headers={"x_user_id": "7"})
    assert answer.status == 400


async def test_each_user_has_a_bucket_of_their_own(edge: Edge) -> None:
    statuses = [(await send(edge.address, "GET", "/v1/feed", token=edge.token)).status for _ in range(22)]
    assert statuses.count(200) == 20
    refused = await send(edge.address, "GET", "/v1/feed", token=edge.token)
    assert (refused.status, refused.reason) == (429, "RATE_LIMITED")
    assert (await send(edge.address, "GET", "/v1/feed", token=edge.other_token)).status == 200


async def test_open_paths_are_limited_by_address(edge: Edge) -> None:
    statuses = [(await send(edge.address, "POST", "/v1/users", body="{}")).status for _ in range(12)]
    assert statuses.count(201) == 10
    assert statuses[-1] == 429
    assert (await send(edge.address, "GET", "/v1/feed", token=edge.token)).status == 200


async def test_grpc_callers_get_status_and_details(edge: Edge) -> None:
    async with aio.insecure_channel(edge.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer = await _grpc(channel, "/feedmesh.feed.v1.FeedService/GetFeed", edge.token)
        assert feed_service_pb2.GetFeedResponse.FromString(answer).next_cursor == "more"
        for path, token, code, reason in (
            ("/feedmesh.feed.v1.FeedService/GetFeed", None, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
            ("/feedmesh.post.v1.PostService/GetPost", edge.token, grpc.StatusCode.NOT_FOUND, "POST_NOT_FOUND"),
            (
                "/feedmesh.graph.v1.GraphInternalService/ImportUsers",
                edge.token,
                grpc.StatusCode.UNIMPLEMENTED,
                "ROUTE_NOT_FOUND",
            ),
        ):
            with pytest.raises(aio.AioRpcError) as failure:
                await _grpc(channel, path, token)
            assert (failure.value.code(), error_of(failure.value).reason) == (code, reason)
        assert await _grpc(channel, "/grpc.health.v1.Health/Check", None) == b"\x08\x01"


async def _grpc(channel: aio.Channel, path: str, token: str | None) -> bytes:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return bytes(await channel.unary_unary(path)(b"", metadata=metadata, timeout=5))


async def test_grpc_web_works_from_a_browser_page_on_this_machine(edge: Edge) -> None:
    origin = {"origin": "http://localhost:5173"}
    preflight = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-grpc-web,content-type",
    }
    path = "/feedmesh.feed.v1.FeedService/GetFeed"
    allowed = await send(edge.address, "OPTIONS", path, headers=preflight)
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    content_type = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    empty_message = b"\0\0\0\0\0"
    answer = await send(
        edge.address, "POST", path, body=empty_message, token=edge.token, headers={**origin, **content_type}
    )
    assert answer.status == 200
    length = int.from_bytes(answer.body[1:5])
    assert feed_service_pb2.GetFeedResponse.FromString(answer.body[5 : 5 + length]).next_cursor == "more"
    assert answer.body[5 + length] == 0x80, "the trailers follow in a frame of their own"
    exposed = answer.headers["access-control-expose-headers"]
    assert "x-feed-quality" in exposed
    assert "x-cache-status" in exposed
    stranger = await send(edge.address, "GET", "/v1/feed", token=edge.token, headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_our_envoy_folder_does_not_hide_the_wheel_of_the_same_name() -> None:
    assert envoy_binary().is_file()


async def test_a_benchmark_that_meets_the_limit_of_a_user_says_so(edge: Edge) -> None:
    plan = {
        "address": edge.address,
        "path": "/feedmesh.feed.v1.FeedService/GetFeed",
        "requests": [{"token": edge.other_token, "body": ""}],
        "mode": "closed",
        "in_flight": 4,
        "warmup_s": 0.2,
        "seconds": 1.0,
    }
    result = await Generator(plan).run()
    assert result["busiest"] == result["sent"] > 20
    with pytest.raises(CliError, match="refused by the edge's limit of 20 a minute per user"):
        require_none_refused(result)

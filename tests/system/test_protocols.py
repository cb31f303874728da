"""One mesh, three protocols: gRPC, gRPC-web and REST show one feed and refuse one input for the same reason."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from feedmesh_cli.mesh_file import Mesh
from foundation.model.clock import SystemClock
from foundation.rpc.tokens import DevIssuer
from tests.kit.http import send
from tests.kit.mesh import Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

GET_FEED = "/feedmesh.feed.v1.FeedService/GetFeed"
CREATE_POST = "/feedmesh.post.v1.PostService/CreatePost"


@pytest.fixture(scope="module", params=["native", "grpcio"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("protocols") / "mesh"
    with running_mesh(directory, "--engine", request.param) as running:
        yield running


@dataclass
class Person:
    """A user and a token."""

    user_id: int
    token: str


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    made = Client(mesh)
    yield made
    await made.close()


@pytest.fixture
async def ana(client: Client, request: pytest.FixtureRequest) -> Person:
    name = f"ana{abs(hash(request.node.nodeid)) % 10**9}"
    answer = await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)
    return Person(answer.user.user_id, client.token(answer.user.user_id))


async def grpc_web(mesh: Mesh, path: str, body: bytes, token: str | None) -> tuple[bytes, dict[str, str]]:
    """Message and trailers of a gRPC-web call."""
    answer = await send(
        mesh.edge_address,
        "POST",
        path,
        body=struct.pack(">BI", 0, len(body)) + body,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        token=token,
    )
    message, trailers, rest = b"", dict(answer.headers), answer.body
    while rest:
        flag, size = struct.unpack(">BI", rest[:5])
        if flag & 0x80:
            lines = rest[5 : 5 + size].decode().strip().split("\r\n")
            trailers |= {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines)}
        else:
            message += rest[5 : 5 + size]
        rest = rest[5 + size :]
    return message, trailers


def as_rest(message: Message) -> object:
    """The JSON that the contract promises for *message*, lists and numbers included."""
    return json.loads(
        json_format.MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


async def test_the_same_call_gives_the_same_feed(mesh: Mesh, client: Client, ana: Person) -> None:
    for caption in ("one", "two", "three"):
        made = await send(
            mesh.edge_address, "POST", "/v1/posts", body=json.dumps({"caption": caption}), token=ana.token
        )
        assert made.status == 201
        assert set(made.json) == {"post_id", "status", "estimated_ready_at"}
    request = feed_pb.GetFeedRequest(limit=2, mode=feed_pb2.LATEST)
    by_grpc = await client.feed.GetFeed(request, metadata=client.as_user(ana.user_id), timeout=5)
    raw, trailers = await grpc_web(mesh, GET_FEED, request.SerializeToString(), ana.token)
    by_web = feed_pb.GetFeedResponse.FromString(raw)
    by_rest = await send(mesh.edge_address, "GET", "/v1/feed?limit=2&mode=LATEST", token=ana.token)
    assert trailers["grpc-status"] == "0"
    assert [post.caption for post in by_grpc.posts] == ["three", "two"]
    assert by_web.posts == by_grpc.posts
    expected = as_rest(by_grpc)
    assert isinstance(expected, dict)
    assert by_rest.json["posts"] == expected["posts"]
    assert by_rest.headers["x-feed-quality"] == "normal"
    assert by_rest.headers["x-cache-status"] in ("hit", "miss")


async def test_the_json_is_that_of_the_specification(mesh: Mesh, ana: Person) -> None:
    body = json.dumps({"caption": "Sunset! #nature", "hashtags": ["#Nature", "nature"], "location_id": "loc123"})
    await send(mesh.edge_address, "POST", "/v1/posts", body=body, token=ana.token)
    answer = await send(mesh.edge_address, "GET", "/v1/feed?limit=20", token=ana.token)
    assert {"posts", "next_cursor", "has_more", "feed_session_id"} <= set(answer.json)
    (post,) = answer.json["posts"]
    assert set(post) == {
        "post_id", "author", "media", "caption", "hashtags", "location", "engagement", "created_at",
    }  # fmt: skip
    assert isinstance(post["post_id"], str)
    assert post["author"].keys() == {"user_id", "username", "avatar_url", "is_verified"}
    assert post["engagement"] == {"like_count": 0, "comment_count": 0, "is_liked": False, "is_saved": False}
    assert post["location"] == {"name": "", "id": "loc123"}
    assert post["hashtags"] == ["nature"]
    assert post["created_at"].endswith("Z")
    assert answer.json["has_more"] is False
    assert answer.json["feed_session_id"].startswith("fs_")


async def reasons(
    mesh: Mesh, client: Client, request: feed_pb.GetFeedRequest, query: str, token: str | None
) -> list[str]:
    """The reason by gRPC, gRPC-web and REST."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with pytest.raises(aio.AioRpcError) as refused:
        await client.feed.GetFeed(request, metadata=metadata, timeout=5)
    details = trailing(refused.value)["grpc-status-details-bin"]
    _, web = await grpc_web(mesh, GET_FEED, request.SerializeToString(), token)
    rest = await send(mesh.edge_address, "GET", f"/v1/feed?{query}", token=token)
    assert rest.status >= 400
    return [reason_of(details), web["grpc-status"], rest.reason]


def trailing(refused: aio.AioRpcError) -> dict[str, bytes | str]:
    return dict(iter(refused.trailing_metadata() or ()))


def reason_of(details: bytes | str) -> str:
    assert isinstance(details, bytes)
    info = ErrorInfo()
    for detail in Status.FromString(details).details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    assert "Traceback" not in str(info)
    return info.reason


async def test_bad_input_has_one_reason_by_every_protocol(mesh: Mesh, client: Client, ana: Person) -> None:
    now_s = SystemClock().now_ms() // 1000
    expired = DevIssuer.load_or_create(mesh.directory / "keys").mint(ana.user_id, "ana", now_s=now_s - 9_000, ttl_s=60)
    foreign_keys = mesh.directory / "foreign"
    foreign_keys.mkdir(exist_ok=True)
    foreign = DevIssuer.load_or_create(foreign_keys).mint(ana.user_id, "ana", now_s=now_s)
    empty = feed_pb.GetFeedRequest()
    for request, query, token, reason, code in [
        (empty, "", None, "TOKEN_MISSING", "16"),
        (empty, "", "no.token.atall", "TOKEN_INVALID", "16"),
        (empty, "", foreign, "TOKEN_INVALID", "16"),
        (empty, "", expired, "TOKEN_EXPIRED", "16"),
        (feed_pb.GetFeedRequest(limit=-1), "limit=-1", ana.token, "FIELD_INVALID", "3"),
        (feed_pb.GetFeedRequest(cursor="x" * 600), "cursor=" + "x" * 600, ana.token, "FIELD_INVALID", "3"),
        (feed_pb.GetFeedRequest(cursor="AAAA"), "cursor=AAAA", ana.token, "CURSOR_INVALID", "3"),
    ]:
        by_grpc, by_web, by_rest = await reasons(mesh, client, request, query, token)
        assert (by_grpc, by_web) == (reason, code)
        assert by_rest == reason or token in (expired, foreign, "no.token.atall"), query


async def test_a_cursor_is_worth_nothing_changed_or_in_other_hands(mesh: Mesh, client: Client, ana: Person) -> None:
    bo = await client.users.CreateUser(user_pb.CreateUserRequest(username=f"bo{ana.user_id % 10**9}"), timeout=5)
    for place in range(3):
        request = post_pb.CreatePostRequest(caption=str(place))
        await client.posts.CreatePost(request, metadata=client.as_user(ana.user_id), timeout=5)
    page = await client.feed.GetFeed(feed_pb.GetFeedRequest(limit=1), metadata=client.as_user(ana.user_id), timeout=5)
    cursor = page.next_cursor
    flipped = cursor[:-2] + ("A" if cursor[-2] != "A" else "B") + cursor[-1]
    for user_id, text, mode in [
        (ana.user_id, flipped, 0),
        (ana.user_id, cursor[:-4], 0),
        (bo.user.user_id, cursor, 0),
        (ana.user_id, cursor, feed_pb2.LATEST),
    ]:
        with pytest.raises(aio.AioRpcError) as refused:
            await client.feed.GetFeed(
                feed_pb.GetFeedRequest(cursor=text, mode=feed_pb2.FeedMode.ValueType(mode)),
                metadata=client.as_user(user_id),
                timeout=5,
            )
        assert reason_of(trailing(refused.value)["grpc-status-details-bin"]) == "CURSOR_INVALID"


async def test_posts_that_break_a_rule_leave_nothing(mesh: Mesh, client: Client, ana: Person) -> None:
    for body, status, reason in [
        ({"caption": "x" * 2_201}, 400, "FIELD_INVALID"),
        ({"hashtags": [f"t{n}" for n in range(31)]}, 400, "FIELD_INVALID"),
        ({"media_ids": ["upload_1"]}, 400, "MEDIA_UNKNOWN"),
        ({"caption": "mine?", "author_id": ana.user_id + 1}, 403, "AUTHOR_MISMATCH"),
    ]:
        answer = await send(mesh.edge_address, "POST", "/v1/posts", body=json.dumps(body), token=ana.token)
        assert (answer.status, answer.reason) == (status, reason)
    oversize = json.dumps({"caption": "x" * 300_000})
    assert (await send(mesh.edge_address, "POST", "/v1/posts", body=oversize, token=ana.token)).status == 413
    malformed = b"\x0a\x02\xff\xfe"  # a caption that is no UTF-8
    _, trailers = await grpc_web(mesh, CREATE_POST, malformed, ana.token)
    assert trailers["grpc-status"] == "3"
    for path in ("/v1/posts/7", "/v1/users/7", "/v1/users/7/posts"):
        assert (await send(mesh.edge_address, "GET", path, token=ana.token)).status == 404
    assert await client.latest(ana.user_id) == []


async def test_a_repeated_request_makes_one_post(client: Client, ana: Person) -> None:
    metadata = client.as_user(ana.user_id)
    request = post_pb.CreatePostRequest(caption="once", request_id="r-1")
    first = await client.posts.CreatePost(request, metadata=metadata, timeout=5)
    again = await client.posts.CreatePost(request, metadata=metadata, timeout=5)
    assert again.post_id == first.post_id
    with pytest.raises(aio.AioRpcError) as refused:
        other = post_pb.CreatePostRequest(caption="twice", request_id="r-1")
        await client.posts.CreatePost(other, metadata=metadata, timeout=5)
    reason = reason_of(trailing(refused.value)["grpc-status-details-bin"])
    assert reason == "IDEMPOTENCY_MISMATCH"
    assert await client.latest(ana.user_id) == [first.post_id]


async def test_internal_services_are_not_at_the_edge(mesh: Mesh, ana: Person) -> None:
    for path in ("/feedmesh.rank.v1.RankService/RankCandidates", "/feedmesh.post.v1.PostInternalService/BatchGetPosts"):
        _, answer = await grpc_web(mesh, path, b"", ana.token)
        assert answer.get("grpc-status", "12") == "12"


def test_nothing_of_this_run_is_left_in_a_log_that_should_not(mesh: Mesh) -> None:
    log = Path(mesh.directory / "logs" / "services.log").read_text()
    assert "Traceback" not in log
    assert "eyJ" not in log, "a token was logged"

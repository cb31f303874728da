"""The hot path's RPC client over both engines, and over peers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from feedmesh.rank.v1 import rank_service_pb2 as pb

from foundation.errors import DeadlineExceeded, DomainError, Exhausted, NotFound, Unauthenticated, Unavailable
from foundation.model.clock import SystemClock
from foundation.rpc import http2, unary
from foundation.rpc.auth import Authenticator
from foundation.rpc.server import Access, Call, Server, ServerSettings, Service, build_server
from foundation.rpc.tokens import DevIssuer, TokenVerifier
from foundation.rpc.unary import MAX_REQUEST_BYTES, UnaryChannel, unary_channel

KEY = "an internal key of a test"
PATH = "/feedmesh.rank.v1.RankService/RankCandidates"
CLOCK = SystemClock()


class Rank:
    """Echoes; small user ids name what else to do."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.begun = 0
        self.left_s = 0.0

    async def RankCandidates(self, request: pb.RankCandidatesRequest, call: Call) -> pb.RankCandidatesResponse:
        self.begun += 1
        self.left_s = call.deadline.remaining_s()
        match request.user_id:
            case 1:
                raise NotFound("USER_NOT_FOUND", "no such user: 50% sure, é", user_id=7)
            case 2:
                raise Exhausted("RATE_LIMITED")
            case 3:
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case 4:
                return pb.RankCandidatesResponse(post_ids=bytes(3_000_000))
        return pb.RankCandidatesResponse(post_ids=request.candidate_ids, model_version=str(request.user_id))

    async def RequestRecommendations(
        self, request: pb.RequestRecommendationsRequest, _: Call
    ) -> pb.RequestRecommendationsResponse:
        raise NotImplementedError  # nobody asks for any here


class World:
    """A server that can be stopped and started again on its port."""

    def __init__(self, engine: Any, tmp_path: Any) -> None:
        issuer = DevIssuer.load_or_create(tmp_path)
        verifier = TokenVerifier(issuer.jwks(), issuer="feedmesh-dev", audience="feedmesh", clock=CLOCK)
        self._auth = Authenticator(verifier, KEY)
        self._engine = engine
        self.rank = Rank()
        self.server: Server
        self.port = 0

    async def start(self) -> None:
        settings = ServerSettings(engine=self._engine, port=self.port, max_concurrent=400)
        service = Service(pb.DESCRIPTOR.services_by_name["RankService"], self.rank, Access.INTERNAL)
        self.server = build_server(settings, [service], auth=self._auth, clock=CLOCK)
        self.port = await self.server.start()


@pytest.fixture(params=["native", "grpcio"])
async def world(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[World]:
    world = World(request.param, tmp_path)
    await world.start()
    yield world
    world.rank.release.set()
    await world.server.stop(1.0)


@pytest.fixture
async def channel(world: World) -> AsyncIterator[UnaryChannel]:
    async with unary_channel(world.server.address, KEY) as channel:
        yield channel


async def rank(channel: UnaryChannel, user_id: int, ids: bytes = b"", cap_s: float = 5) -> pb.RankCandidatesResponse:
    request = pb.RankCandidatesRequest(user_id=user_id, candidate_ids=ids)
    return pb.RankCandidatesResponse.FromString(await channel.call(PATH, request.SerializeToString(), cap_s))


async def test_many_calls_at_once_get_their_own_answers(channel: UnaryChannel) -> None:
    sent = {user_id: user_id.to_bytes(8, "little") * (user_id % 900) for user_id in range(10, 310)}
    answers = await asyncio.gather(*(rank(channel, user_id, ids) for user_id, ids in sent.items()))
    assert [(int(answer.model_version), answer.post_ids) for answer in answers] == list(sent.items())


async def test_windows_are_given_and_taken(channel: UnaryChannel) -> None:
    for _ in range(120):  # 900 kB each way: far beyond the windows that both sides begin with
        answer = await rank(channel, 9, bytes(8_000))
        assert len(answer.post_ids) == 8_000
    assert len((await rank(channel, 4)).post_ids) == 3_000_000


async def test_a_domain_error_keeps_its_reason_and_data(channel: UnaryChannel) -> None:
    with pytest.raises(NotFound) as refused:
        await rank(channel, 1)
    assert (refused.value.reason, refused.value.message) == ("USER_NOT_FOUND", "no such user: 50% sure, é")
    assert refused.value.metadata == {"user_id": "7"}
    with pytest.raises(Exhausted):
        await rank(channel, 2)


async def test_the_key_is_shown(world: World) -> None:
    async with unary_channel(world.server.address, "some other key of a test") as stranger:
        with pytest.raises(Unauthenticated) as refused:
            await rank(stranger, 9)
    assert refused.value.reason == "INTERNAL_KEY_INVALID"


async def test_the_deadline_travels_and_ends_the_call_on_both_sides(world: World, channel: UnaryChannel) -> None:
    with pytest.raises(DeadlineExceeded):
        await rank(channel, 3, cap_s=0.2)
    assert 0.1 < world.rank.left_s <= 0.2
    async with asyncio.timeout(5):
        await world.rank.cancelled.wait()
    assert (await rank(channel, 9)).model_version == "9"


async def test_a_cancelled_caller_cancels_the_handler(world: World, channel: UnaryChannel) -> None:
    caller = asyncio.ensure_future(rank(channel, 3))
    while not world.rank.begun:
        await asyncio.sleep(0.01)
    caller.cancel()
    async with asyncio.timeout(5):
        await world.rank.cancelled.wait()
    assert (await rank(channel, 9)).model_version == "9"


async def test_a_server_that_comes_back_is_found_again(world: World, channel: UnaryChannel) -> None:
    assert (await rank(channel, 9)).model_version == "9"
    waiting = asyncio.ensure_future(rank(channel, 3))
    while world.rank.begun < 2:
        await asyncio.sleep(0.01)
    await world.server.stop(0.1)
    with pytest.raises(DomainError):
        await waiting
    with pytest.raises(Unavailable):
        await rank(channel, 9)
    await world.start()
    async with asyncio.timeout(5):
        while True:
            try:
                answer = await rank(channel, 9)
                break
            except Unavailable:
                await asyncio.sleep(0.02)
    assert answer.model_version == "9"


async def test_a_request_that_does_not_fit_is_said_to_the_programmer(channel: UnaryChannel) -> None:
    with pytest.raises(ValueError, match="use an InternalChannel"):
        await channel.call(PATH, bytes(MAX_REQUEST_BYTES + 1), 1)


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def misbehaving(peer: Peer) -> AsyncIterator[UnaryChannel]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        finally:
            writer.close()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        unary_channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", KEY) as channel,
    ):
        yield channel


async def test_nobody_listens_and_callers_know_at_once() -> None:
    async with misbehaving(hang_up) as channel:
        pass
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable):
        await rank(channel, 9)
    assert loop.time() - began < unary.CONNECT_TIMEOUT_S


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    pass


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def speak_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n" + bytes(2**16))
    await writer.drain()


async def narrow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    settings = http2.INITIAL_WINDOW_SIZE.to_bytes(2) + (100).to_bytes(4)
    writer.write(http2.frame(http2.SETTINGS, 0, 0, settings))
    await reader.read()


@pytest.mark.parametrize("peer", [hang_up, say_nothing, speak_http1, narrow])
async def test_a_peer_that_is_no_server_fails_the_call_in_time(peer: Peer) -> None:
    async with misbehaving(peer) as channel:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await rank(channel, 9, cap_s=0.3)
        assert loop.time() - began < 1


def answering(*frames: bytes) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http2.frame(http2.SETTINGS, 0, 0, b""))
        heard = b""
        while PATH.encode() not in heard:
            heard += await reader.read(65_536)
        writer.write(b"".join(frames))
        await reader.read()

    return peer


OK = http2.literal(b"grpc-status", b"0")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([http2.frame(http2.HEADERS, 5, 1, b"\x8d")], "HTTP 404"),
        ([http2.frame(http2.HEADERS, 5, 1, OK)], "no single message"),
        ([http2.frame(http2.RST_STREAM, 0, 1, bytes(4))], "gave the call up"),
        ([http2.frame(http2.GOAWAY, 0, 0, bytes(8))], "going away"),
        ([http2.frame(http2.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff")], "was lost"),
        ([http2.frame(http2.DATA, 0, 1, b"\x01\x00\x00\x00\x00"), http2.frame(http2.HEADERS, 5, 1, OK)], "no single"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_that_says_so(frames: list[bytes], expected: str) -> None:
    async with misbehaving(answering(*frames)) as channel:
        with pytest.raises(DomainError, match=expected):
            await rank(channel, 9)


async def test_padding_and_continuations_are_understood() -> None:
    message = pb.RankCandidatesResponse(model_version="9").SerializeToString()
    body = http2.grpc_body(message)
    frames = [
        http2.frame(http2.HEADERS, http2.PADDED, 1, b"\x02" + http2.literal(b"x-a", b"b") + bytes(2)),
        http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, http2.literal(b"x-c", b"d")),
        http2.frame(http2.PING, 0, 0, bytes(8)),
        http2.frame(http2.DATA, http2.PADDED, 1, b"\x03" + body[:4] + bytes(3)),
        http2.frame(http2.DATA, 0, 1, body[4:]),
        http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, OK),
    ]
    async with misbehaving(answering(*frames)) as channel:
        assert (await rank(channel, 9)).model_version == "9"

"""WatchFeed on both engines and by three protocols: what is new is told within seconds, what is hidden never is."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb
from google.protobuf import json_format
from grpc import aio

from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh
from tests.kit.eventually import eventually
from tests.kit.mesh import FEEDMESH, Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

WATCH = "/feedmesh.feed.v1.FeedService/WatchFeed"
Stream = aio.UnaryStreamCall[feed_pb.WatchFeedRequest, feed_pb.WatchFeedResponse]


@pytest.fixture(scope="module", params=["native", "grpcio"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("watching") / "mesh", "--engine", request.param) as running:
        yield running


class People:
    """Ana follows bo."""

    def __init__(self, client: Client, ids: list[int]) -> None:
        self.client = client
        self.ana, self.bo, self.cy = ids

    async def post(self, author: int) -> int:
        request = post_pb.CreatePostRequest(caption="hello")
        return (await self.client.posts.CreatePost(request, metadata=self.client.as_user(author), timeout=5)).post_id

    async def edge(self, verb: str, other: int) -> None:
        request = getattr(graph_pb, f"{verb}Request")(user_id=other)
        await getattr(self.client.graph, verb)(request, metadata=self.client.as_user(self.ana), timeout=5)

    @asynccontextmanager
    async def watching(self, since_id: int = 0) -> AsyncIterator[Stream]:
        request = feed_pb.WatchFeedRequest(since_id=since_id)
        stream = self.client.feed.WatchFeed(request, metadata=self.client.as_user(self.ana))
        yield stream
        stream.cancel()


async def next_of(stream: Stream) -> feed_pb.WatchFeedResponse:
    async with asyncio.timeout(20):
        answer = await stream.read()
    assert isinstance(answer, feed_pb.WatchFeedResponse)
    return answer


@pytest.fixture
async def people(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[People]:
    client = Client(mesh)
    ids = []
    for name in ("ana", "bo", "cy"):
        username = f"{name}{abs(hash(request.node.nodeid)) % 10**9}"
        answer = await client.users.CreateUser(user_pb.CreateUserRequest(username=username), timeout=5)
        ids.append(answer.user.user_id)
    made = People(client, ids)
    await made.edge("Follow", made.bo)
    await client.settled()
    yield made
    await client.close()


async def test_new_posts_are_told_as_they_come(people: People) -> None:
    old = await people.post(people.bo)
    await people.client.settled()
    async with people.watching(old) as stream:
        first = await next_of(stream)
        assert (first.new_posts, first.newest_id, first.since_id) == (0, old, old)
        assert first.quality == feed_pb2.NORMAL
        theirs = await people.post(people.bo)
        told = await next_of(stream)
        assert (told.new_posts, told.newest_id) == (1, theirs)
        mine = await people.post(people.ana)
        told = await next_of(stream)
        assert (told.new_posts, told.newest_id) == (2, mine)
    async with people.watching(theirs) as stream:
        assert (await next_of(stream)).new_posts == 1


async def test_what_the_viewer_may_not_see_is_never_told(people: People) -> None:
    await people.edge("Follow", people.cy)
    await people.client.settled()
    async with people.watching() as stream:
        assert (await next_of(stream)).new_posts == 0
        await people.edge("Mute", people.bo)
        await people.post(people.bo)
        hidden = await people.post(people.ana)
        request = post_pb.DeletePostRequest(post_id=hidden)
        await people.client.posts.DeletePost(request, metadata=people.client.as_user(people.ana), timeout=5)
        shown = await people.post(people.cy)
        told = await next_of(stream)
        while told.newest_id != shown:  # the count between the post and its delete, if there was one, is past
            assert told.new_posts <= 1
            told = await next_of(stream)
        assert told.new_posts == 1


async def test_a_new_follow_and_a_lost_cache_are_noticed(people: People) -> None:
    await people.post(people.cy)
    async with people.watching() as stream:
        assert (await next_of(stream)).new_posts == 0
        await people.edge("Follow", people.cy)
        assert (await next_of(stream)).new_posts == 1, "the followee's recent posts"


async def test_rest_and_grpc_web_stream_beyond_the_deadline_of_a_call(mesh: Mesh, people: People) -> None:
    """The second message without a post is the heartbeat after 15 s; a call would have been cut after 2 or 10 s."""
    await people.post(people.bo)
    await people.client.settled()
    token = people.client.token(people.ana)
    request = feed_pb.WatchFeedRequest().SerializeToString()
    web_body = struct.pack(">BI", 0, len(request)) + request
    web_headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    loop = asyncio.get_running_loop()
    began = loop.time()
    rest = await opened(mesh, "GET", "/v1/feed/watch?since_id=0", token)
    web = await opened(mesh, "POST", WATCH, token, web_headers, web_body)
    async with people.watching() as stream:
        expected = await next_of(stream)
        assert expected.new_posts == 1
        for place in range(2):
            assert json_format.Parse(await line_of(rest), feed_pb.WatchFeedResponse()) == expected
            assert await message_of(web) == expected
            if place == 0:
                assert loop.time() - began < 5, "the first message comes at once"
        assert await next_of(stream) == expected
        assert loop.time() - began > 10
        await people.post(people.bo)
        assert json.loads(await line_of(rest))["new_posts"] == 2
        assert (await message_of(web)).new_posts == 2
    rest.close()
    web.close()


async def test_many_who_watch_leave_the_room_of_those_who_read(mesh: Mesh, people: People) -> None:
    """More streams than calls are let in at a time: a stream is nobody's load."""
    await people.post(people.bo)
    await people.client.settled()
    token = people.client.token(people.ana)
    rests = [await opened(mesh, "GET", "/v1/feed/watch", token) for _ in range(300)]
    assert {json.loads(await line_of(rest))["new_posts"] for rest in rests} == {1}
    assert len(await people.client.latest(people.ana)) == 1
    await people.post(people.bo)
    assert {json.loads(await line_of(rest))["new_posts"] for rest in rests} == {2}
    for rest in rests:
        rest.close()


async def test_who_leaves_is_forgotten(mesh: Mesh, people: People) -> None:
    async def watchers() -> int:
        _, page = await get(mesh.status.removeprefix("http://"), "/metrics", timeout_s=5)
        (line,) = [line for line in page.decode().splitlines() if line.startswith("feedmesh_feed_watchers ")]
        return int(float(line.split()[1]))

    async def none() -> bool:
        return await watchers() == 0

    await eventually(none)
    async with people.watching() as stream:
        await next_of(stream)
        rest = await opened(mesh, "GET", "/v1/feed/watch", people.client.token(people.ana))
        await line_of(rest)
        assert await watchers() == 2
        rest.close()
    await eventually(none)


async def test_bad_watches_are_refused(mesh: Mesh, people: People) -> None:
    for since_id, metadata, code in [
        (-1, people.client.as_user(people.ana), grpc.StatusCode.INVALID_ARGUMENT),
        (0, (), grpc.StatusCode.UNAUTHENTICATED),
        (0, people.client.as_user(7), grpc.StatusCode.NOT_FOUND),
    ]:
        stream = people.client.feed.WatchFeed(feed_pb.WatchFeedRequest(since_id=since_id), metadata=metadata)
        with pytest.raises(aio.AioRpcError) as refused:
            await stream.read()
        assert refused.value.code() is code


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_a_mesh_that_stops_ends_its_streams_and_does_not_wait_for_them(engine: str, tmp_path: Path) -> None:
    with running_mesh(tmp_path / "mesh", "--engine", engine) as mesh:
        client = Client(mesh)
        answer = await client.users.CreateUser(user_pb.CreateUserRequest(username="ana"), timeout=5)
        # Past the edge, which is stopped too: the service itself ends the stream well.
        async with aio.insecure_channel(mesh.services["feed_svc"]) as channel:
            watch = channel.unary_stream(
                WATCH,
                request_serializer=feed_pb.WatchFeedRequest.SerializeToString,
                response_deserializer=feed_pb.WatchFeedResponse.FromString,
            )
            stream = watch(feed_pb.WatchFeedRequest(), metadata=client.as_user(answer.user.user_id))
            await next_of(stream)
            loop = asyncio.get_running_loop()
            began = loop.time()
            down = [*FEEDMESH, "down", "--data", str(mesh.directory)]
            stopped = asyncio.to_thread(subprocess.run, down, check=True, capture_output=True, timeout=30)
            ending = asyncio.create_task(stopped)
            assert await stream.read() is aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
            await ending
            assert loop.time() - began < 5
        await client.close()


class Opened:
    """An HTTP/1.1 answer that goes on: its body as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.body = b""

    async def more(self) -> None:
        """One chunk of the body."""
        async with asyncio.timeout(20):
            size = int(await self._reader.readline(), 16)
            self.body += (await self._reader.readexactly(size + 2))[:size]

    def close(self) -> None:
        self._writer.close()


async def opened(
    mesh: Mesh, method: str, path: str, token: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Opened:
    host, port = mesh.edge_address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    told = {"host": "mesh", "authorization": f"Bearer {token}", "content-length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    async with asyncio.timeout(20):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in answer.splitlines()[0], answer
    return Opened(reader, writer)


async def line_of(rest: Opened) -> str:
    while b"\n" not in rest.body:
        await rest.more()
    line, _, rest.body = rest.body.partition(b"\n")
    return line.decode()


async def message_of(web: Opened) -> feed_pb.WatchFeedResponse:
    def size() -> int:
        return int(struct.unpack(">BI", web.body[:5])[1]) if len(web.body) >= 5 else 1 << 30

    while len(web.body) < 5 + size():
        await web.more()
    length = size()
    message, web.body = web.body[5 : 5 + length], web.body[5 + length :]
    return feed_pb.WatchFeedResponse.FromString(message)

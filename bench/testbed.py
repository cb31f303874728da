"""A mesh to measure: either profile with the reference model, a world of full feeds, and the no-op behind its Envoy."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb
from feedmesh.feed.v1.feed_service_pb2_grpc import FeedServiceStub
from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1.graph_internal_service_pb2_grpc import GraphInternalServiceStub
from grpc import aio

from bench import reference_model
from bench.edge_limit import require_none_refused
from feedmesh_cli.children import start_child
from feedmesh_cli.loading import drained, load, progress
from feedmesh_cli.mesh_file import Mesh, load_mesh
from feedmesh_cli.ports import free_ports
from feedmesh_cli.world import MadeUpPost
from foundation.model.clock import SystemClock
from foundation.rpc.channels import internal_channel
from foundation.rpc.tokens import DevIssuer

GET_FEED = "/feedmesh.feed.v1.FeedService/GetFeed"
CREATE_POST = "/feedmesh.post.v1.PostService/CreatePost"
NOOP = "/feedmesh.bench.Noop/Get"
POSTS_PER_USER = 5
CAPTION_CHARACTERS = 880
"""Makes a card of 1 KB (seed section 3)."""
WRITERS = 200
FOLLOWERS_PER_WRITER = 20
AT_ONCE = 16
WARM_ROUNDS = 10
SWEPT_AFTER_S = 40.0
"""What a service wrote in its first 10 s is published once more when that slot is closed: all that was loaded then
passes its consumers again, which would be measured as well."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Testbed:
    """A mesh that was loaded and warmed."""

    mesh: Mesh
    reader_ids: Sequence[int]
    tokens: Sequence[str]
    """Of the readers."""
    writer_tokens: Sequence[str]
    later_cursors: Sequence[str]
    """Each reader's cursor of the second RANKED page."""
    answer_bytes: int
    """Mean size of a first page."""
    start_s: float
    """How long the mesh took to be ready."""

    def requests(self, bodies: Sequence[bytes], tokens: Sequence[str] | None = None) -> list[dict[str, str]]:
        """A plan's requests: one per token."""
        return [
            {"token": token, "body": base64.b64encode(body).decode()}
            for token, body in zip(tokens or self.tokens, bodies, strict=True)
        ]

    async def generate(self, path: str, requests: Sequence[dict[str, str]], **plan: Any) -> dict[str, Any]:
        """Run the generator; its result, with the CPU µs per request of each process of the mesh.

        Raises CliError when a closed loop meets the edge's limit: it sends the more, the faster it is refused.
        """
        whole = {"address": self.mesh.edge_address, "path": path, "requests": list(requests), **plan}
        before = self._cpu()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.loadgen", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        limit = plan["seconds"] + plan.get("warmup_s", 1.0) + plan.get("then", (0, 0.0))[1] + 60
        async with asyncio.timeout(limit):
            output, _ = await process.communicate(json.dumps(whole).encode())
        after = self._cpu()
        result: dict[str, Any] = json.loads(output)
        if plan["mode"] == "closed":
            require_none_refused(result)
        result["cpu_us"] = {name: (after[name] - before[name]) * 1e6 / max(1, result["sent"]) for name in before}
        return result

    def _cpu(self) -> dict[str, float]:
        used = {}
        for name, process in self.mesh.processes.items():
            times = psutil.Process(process.pid).cpu_times()
            used[name] = times.user + times.system
        return used


@asynccontextmanager
async def testbed(
    *, users: int, follows: int, pulled: int, tell: Tell, profile: str, recommendations: bool
) -> AsyncIterator[Testbed]:
    """A mesh with *users* readers who each follow *follows* others, all feeds full and read once.

    *pulled* of those whom a reader follows are authors whom all readers follow and whose posts are therefore pulled.
    """
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedmesh-bench-")))
        model = scratch / "reference.onnx"
        tell("building the reference model")
        reference_model.build(model)
        (noop_port,) = free_ports(1)
        data = scratch / "mesh"
        tell(f"starting the mesh, profile {profile}")
        began = SystemClock().monotonic()
        # Nobody else has so many followers.
        borders = {"tier_pull_from": users, "pull_from": users, "inline_up_to": users - 1} if pulled else {}
        mesh = start_mesh(data, model, noop_port, profile, recommendations=recommendations, changes=borders)
        start_s = SystemClock().monotonic() - began
        stack.callback(stop_mesh, data)
        names, pairs, posts = _world(users, follows, pulled)
        tell(f"loading {users} readers who follow {follows} each, {pulled} of them pulled, {len(posts)} posts")
        await load(mesh, names, pairs, posts)
        tell("letting the sweepers finish with what was loaded")
        await asyncio.sleep(SWEPT_AFTER_S)
        with progress() as bar:
            await drained(mesh, bar)
        ids = await _ids(mesh, names)
        issuer = DevIssuer.load_or_create(data / "keys")
        now_s = SystemClock().now_ms() // 1000
        tokens = [issuer.mint(user_id, name, now_s=now_s) for user_id, name in zip(ids, names, strict=True)]
        tell("reading every feed once")
        cursors, size = await warm(mesh, tokens[:users])
        noop = await start_child(
            "noop", [sys.executable, "-m", "bench.noop", str(noop_port), str(size)], scratch / "noop.log"
        )
        stack.push_async_callback(noop.stop, grace_s=2.0)
        await asyncio.sleep(5.0)  # Envoy's health check finds it
        yield Testbed(mesh, ids[:users], tokens[:users], tokens[users : users + WRITERS], cursors, size, start_s)


def start_mesh(
    data: Path,
    model: Path,
    noop_port: int,
    profile: str,
    *,
    recommendations: bool = True,
    changes: Mapping[str, int] | None = None,
) -> Mesh:
    """A mesh on *data*, without a world, whose Envoy knows the no-op; *changes* are settings of its services.

    Raises RuntimeError when it does not start.
    """
    command = [sys.executable, "-m", "feedmesh_cli", "up", "--detach", "--json", "--no-world", "--data", str(data)]
    command += ["--profile", profile, "--model", str(model), "--bench-target", f"127.0.0.1:{noop_port}"]
    command += [] if recommendations else ["--no-recommendations"]
    for name, value in (changes or {}).items():
        command += ["--set", f"{name}={value}"]
    started = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    mesh = load_mesh(data)
    if started.returncode or mesh is None:
        raise RuntimeError(f"the mesh did not start:\n{started.stderr}")
    return mesh


def stop_mesh(data: Path) -> None:
    """The end of the mesh on *data*."""
    command = [sys.executable, "-m", "feedmesh_cli", "down", "--data", str(data)]
    subprocess.run(command, capture_output=True, timeout=60, check=False)


def _world(users: int, follows: int, pulled: int) -> tuple[list[str], Any, list[MadeUpPost]]:
    chance = np.random.default_rng(7)
    names = [f"r{place}" for place in range(users)] + [f"w{place}" for place in range(WRITERS)]
    stars = range(len(names), len(names) + pulled)
    names += [f"s{place}" for place in range(pulled)]
    pairs: list[tuple[int, int]] = []
    for reader in range(users):
        followees = chance.choice(users - 1, size=min(follows - pulled, users - 1), replace=False)
        pairs.extend((reader, int(followee) + (followee >= reader)) for followee in followees)
        pairs.extend((reader, star) for star in stars)
    for writer in range(users, users + WRITERS):
        readers = chance.choice(users, size=min(FOLLOWERS_PER_WRITER, users), replace=False)
        pairs.extend((int(reader), writer) for reader in readers)
    letters = "".join(chance.choice(list("abcdefghij klmnop"), size=CAPTION_CHARACTERS))
    posts = [
        MadeUpPost(author, f"{place} {letters}", ("bench", "feed"))
        for place in range(POSTS_PER_USER)
        for author in (*range(users), *stars)
    ]
    return names, np.array(pairs, dtype=np.int64), posts


async def _ids(mesh: Mesh, names: Sequence[str]) -> list[int]:
    async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
        stub = GraphInternalServiceStub(channel.grpc)
        request = graph_pb.ResolveUsernamesRequest(usernames=names)
        return list((await channel.call(stub.ResolveUsernames, request, 30)).user_ids)


async def warm(mesh: Mesh, tokens: Sequence[str], *, at_once: int = AT_ONCE) -> tuple[list[str], int]:
    """The cursor of each reader's second page, and the mean size of a first page."""
    gate = asyncio.Semaphore(at_once)
    async with aio.insecure_channel(mesh.edge_address) as channel:
        stub = FeedServiceStub(channel)

        async def first(token: str) -> feed_pb.GetFeedResponse:
            async with gate:
                metadata = (("authorization", f"Bearer {token}"),)
                return await stub.GetFeed(feed_pb.GetFeedRequest(limit=20), metadata=metadata, timeout=10)

        # Nothing is cached at first: a page may come without what the next one has.
        pages: dict[str, feed_pb.GetFeedResponse] = {}
        for _ in range(WARM_ROUNDS):
            left = [token for token in tokens if token not in pages]
            found = await asyncio.gather(*map(first, left), return_exceptions=True)
            pages |= {
                token: page
                for token, page in zip(left, found, strict=True)
                if not isinstance(page, BaseException) and is_whole(page)
            }
        if len(pages) < len(tokens):
            raise RuntimeError(f"{len(tokens) - len(pages)} of {len(tokens)} readers get no whole page")
        again = await asyncio.gather(*map(first, tokens))
    return [page.next_cursor for page in again], sum(page.ByteSize() for page in again) // len(again)


def is_whole(page: feed_pb.GetFeedResponse) -> bool:
    """Whether a first page lacks nothing."""
    return len(page.posts) == 20 and page.quality == feed_pb2.NORMAL

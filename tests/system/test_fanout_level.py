"""The level of the fan-out on a running mesh: overridden by an operator, obeyed, shown, traced, and given back."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from feedmesh_cli.mesh_file import Mesh
from tests.kit.eventually import eventually
from tests.kit.http import send
from tests.kit.mesh import FEEDMESH, Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def told(mesh: Mesh, *arguments: str) -> Any:
    command = [*FEEDMESH, *arguments, "--json", "--data", mesh.data]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_an_operator_leaves_posts_to_readers_and_takes_it_back(tmp_path: Path) -> None:
    with running_mesh(tmp_path / "mesh") as mesh:
        client = Client(mesh)
        ana, bo = [
            (await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)).user.user_id
            for name in ("ana", "bo")
        ]
        request = graph_pb.FollowRequest(user_id=bo)
        await client.graph.Follow(request, metadata=client.as_user(ana), timeout=5)
        await client.settled()
        assert await client.latest(ana) == []

        async def post() -> int:
            request = post_pb.CreatePostRequest(caption="a post")
            created = await client.posts.CreatePost(request, metadata=client.as_user(bo), timeout=5)
            await client.settled()
            return created.post_id

        async def obeyed(level: int) -> bool:
            page = await send(mesh.status.removeprefix("http://"), "GET", "/metrics")
            return f"fanout_level {level}.0\n" in page.body.decode()

        assert await obeyed(0)
        shown = await told(mesh, "ops", "level", "set", "3", "--for", "10m", "--why", "a drill")
        assert (shown["level"], shown["by_lag"], shown["override"]["why"]) == (3, 0, "a drill")
        assert "@" in shown["override"]["who"]
        await eventually(lambda: obeyed(3))
        left = await post()
        trace = await told(mesh, "trace", str(left))
        assert trace["route"] == "gap: level 3; else inline"
        assert trace["feeds"] == {"pull it when they read": 1}

        assert await client.latest(ana) == [left], "a reader finds what was left to them, and keeps it"
        assert (await told(mesh, "trace", str(left)))["feeds"] == {"hold it": 1}

        assert (await told(mesh, "ops", "level", "clear")) == {"cleared": True}
        await eventually(lambda: obeyed(0))
        pushed = await post()
        assert (await told(mesh, "trace", str(pushed)))["feeds"] == {"hold it": 1}
        assert await client.latest(ana) == [pushed, left]
        history = (await told(mesh, "ops", "level", "show"))["history"]
        assert [change["level"] for change in history] == [None, 3]
        await client.close()

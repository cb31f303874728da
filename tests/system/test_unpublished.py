"""A log that takes nothing for a while: what was acknowledged meanwhile is told to wait until it is in the log."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from feedmesh.graph.v1 import graph_service_pb2 as graph_pb
from feedmesh.graph.v1 import user_service_pb2 as user_pb
from feedmesh.post.v1 import post_service_pb2 as post_pb

from feedmesh_cli.mesh_file import Mesh
from tests.kit.eventually import eventually
from tests.kit.mesh import FEEDMESH, Client, running_mesh

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

TAKES_NOTHING = (
    "create trigger takes_nothing before insert on records begin select raise(abort, 'the log takes nothing'); end"
)
TAKES_AGAIN = "drop trigger takes_nothing"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path / "mesh") as mesh:
        yield mesh


def change_the_log(mesh: Mesh, statement: str) -> None:
    with closing(sqlite3.connect(mesh.directory / "log.db", timeout=5, isolation_level=None)) as log:
        log.execute(statement)


def status(mesh: Mesh, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FEEDMESH, "status", *options, "--data", mesh.data], capture_output=True, text=True, timeout=30, check=False
    )


def told(mesh: Mesh) -> Any:
    return json.loads(status(mesh, "--json").stdout)


async def test_events_that_the_log_did_not_take_are_told_until_they_are_published_again(mesh: Mesh) -> None:
    client = Client(mesh)
    ana, bo = [
        (await client.users.CreateUser(user_pb.CreateUserRequest(username=name), timeout=5)).user.user_id
        for name in ("ana", "bo")
    ]
    await client.graph.Follow(graph_pb.FollowRequest(user_id=bo), metadata=client.as_user(ana), timeout=5)
    await client.settled()
    assert told(mesh)["unpublished"] == {
        "graph_svc": {"events": 0, "slots": 0},
        "post_svc": {"events": 0, "slots": 0},
    }

    assert await client.latest(ana) == [], "her timeline is warm: what is delivered is delivered there"
    change_the_log(mesh, TAKES_NOTHING)
    request = post_pb.CreatePostRequest(caption="hello")
    posts = [(await client.posts.CreatePost(request, metadata=client.as_user(bo), timeout=5)).post_id for _ in range(3)]
    waiting = told(mesh)
    assert waiting["unpublished"]["post_svc"] == {"events": 3, "slots": 0}
    assert waiting["unpublished"]["graph_svc"] == {"events": 0, "slots": 0}
    assert not any(waiting["lag"].values()), "no consumer is behind: nothing is in the log"
    assert "post_svc         3 events wait to be published\n" in status(mesh).stdout

    change_the_log(mesh, TAKES_AGAIN)
    await client.settled(timeout_s=90)
    assert told(mesh)["unpublished"]["post_svc"] == {"events": 0, "slots": 0}
    assert await client.latest(ana) == posts[::-1]
    await client.close()


async def test_what_waits_is_told_when_the_log_cannot_be_read_either(mesh: Mesh) -> None:
    client = Client(mesh)
    bo = (await client.users.CreateUser(user_pb.CreateUserRequest(username="bo"), timeout=5)).user.user_id
    await client.settled()
    change_the_log(mesh, "alter table records rename to elsewhere")
    request = post_pb.CreatePostRequest(caption="hello")
    await client.posts.CreatePost(request, metadata=client.as_user(bo), timeout=5)
    shown = status(mesh)
    assert shown.returncode == 3
    assert "post_svc         1 events wait to be published\n" in shown.stdout
    assert "cannot tell how far it is behind: the event log" in shown.stdout
    change_the_log(mesh, "alter table elsewhere rename to records")
    await eventually(lambda: is_healthy(mesh))
    await client.close()


async def is_healthy(mesh: Mesh) -> bool:
    return status(mesh).returncode == 0

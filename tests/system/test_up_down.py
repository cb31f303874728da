"""The embedded mesh from its command line, as a user meets it: start, use, fill, lose a part, stop."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedmesh_cli.mesh_file import Mesh, load_mesh
from tests.kit.eventually import eventually
from tests.kit.http import send

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

START_TIMEOUT_S = 60


@dataclass(frozen=True)
class Cli:
    """The command with one state directory and one data directory."""

    state: Path
    data: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "feedmesh_cli", *arguments, "--data", str(self.data)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
            env=self.environment,
        )

    def json(self, *arguments: str) -> Any:
        shown = self.run(*arguments, "--json")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return json.loads(shown.stdout)

    def token(self, username: str) -> str:
        return str(self.json("token", "--user", username)["token"])

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "FEEDMESH_STATE_DIR": str(self.state)}

    @property
    def mesh(self) -> Mesh:
        mesh = load_mesh(self.data)
        assert mesh is not None
        return mesh


@contextlib.contextmanager
def foreground(cli: Cli, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`feedmesh up` as in a terminal, ended with the test whatever happens."""
    process = subprocess.Popen(
        cli.command("up", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment,
    )
    try:
        assert cli.run("wait", "--timeout", str(START_TIMEOUT_S)).returncode == 0
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


def cli_at(directory: Path) -> Cli:
    return Cli(state=directory / "state", data=directory / "data")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, dict[str, Any]]]:
    """A mesh with the small world, and what `up --json` told."""
    cli = cli_at(tmp_path_factory.mktemp("mesh"))
    told = cli.json("up", "--detach")
    yield cli, told
    cli.run("down")


def address_of(told: dict[str, Any]) -> str:
    return str(told["edge"]).removeprefix("http://")


async def test_up_tells_where_it_is_and_a_token_that_works(running: tuple[Cli, dict[str, Any]]) -> None:
    cli, told = running
    assert told["user"] == "ana"
    assert "internal_key" not in json.dumps(told)
    answer = await send(address_of(told), "GET", "/v1/feed?limit=5", token=told["token"])
    assert answer.status == 200
    assert answer.headers["x-feed-quality"] == "normal"
    assert len(answer.json["posts"]) == 5
    assert cli.run("status").returncode == 0
    assert cli.json("status")["processes"] == dict.fromkeys(("supervisor", "valkey", "services", "envoy"), True)


async def test_a_new_user_follows_and_sees_what_is_posted(running: tuple[Cli, dict[str, Any]]) -> None:
    cli, told = running
    edge = address_of(told)
    created = await send(edge, "POST", "/v1/users", body='{"username": "newcomer"}')
    assert created.status == 201
    token = cli.token("newcomer")
    followed = await send(edge, "POST", f"/v1/users/{told['user_id']}/follow", token=token)
    assert (followed.status, followed.json["relationship"]["following"]) == (200, True)
    posted = await send(edge, "POST", "/v1/posts", body='{"caption": "to everyone"}', token=told["token"])
    assert posted.status == 201

    async def sees_it() -> bool:
        feed = await send(edge, "GET", "/v1/feed?mode=LATEST", token=token)
        return posted.json["post_id"] in [post["post_id"] for post in feed.json["posts"]]

    await eventually(sees_it)


def test_call_speaks_json_and_shows_reasons(running: tuple[Cli, dict[str, Any]]) -> None:
    cli, _ = running
    answered = cli.run("call", "feedmesh.feed.v1.FeedService/GetFeed", '{"limit": 2}', "--user", "bo")
    assert answered.returncode == 0, answered.stderr
    assert len(json.loads(answered.stdout)["posts"]) == 2
    assert "x-feed-quality" in answered.stderr
    refused = cli.run("call", "PostService/GetPost", '{"post_id": "1"}', "--user", "bo")
    assert refused.returncode == 1
    assert "NOT_FOUND" in refused.stderr
    unnamed = cli.run("call", "FeedService/GetFeed")
    assert unnamed.returncode == 1
    assert "--user" in unnamed.stderr
    assert cli.run("token", "--user", "nobody.there").returncode == 1


def test_an_edge_list_becomes_users_follows_and_feeds(running: tuple[Cli, dict[str, Any]], tmp_path: Path) -> None:
    cli, _ = running
    (tmp_path / "ring.edges").write_text("% a ring\n0 1\n1 2\n2 3\n3 0\n")
    loaded = cli.json("seed", "graph", str(tmp_path / "ring.edges"), "--posts-per-user", "3")
    assert (loaded["users"], loaded["follows"], loaded["posts"]) == (4, 8, 12)
    feed = json.loads(cli.run("call", "FeedService/GetFeed", '{"mode": "LATEST"}', "--user", "n0").stdout)
    assert sorted({post["author"]["username"] for post in feed["posts"]}) == ["n0", "n1", "n3"]
    assert len(feed["posts"]) == 9
    again = cli.json("seed", "graph", str(tmp_path / "ring.edges"))
    assert (again["follows"], again["posts"]) == (0, 0)


def test_a_made_up_world_loads(running: tuple[Cli, dict[str, Any]]) -> None:
    cli, _ = running
    loaded = cli.json("seed", "world", "--users", "60", "--seed", "5")
    assert loaded["users"] == 60
    assert loaded["posts"] >= 120
    assert cli.json("status")["lag"] == dict.fromkeys(cli.json("status")["lag"], 0)


async def test_metrics_are_served(running: tuple[Cli, dict[str, Any]]) -> None:
    _, told = running
    address, path = told["metrics"].removeprefix("http://").split("/", 1)
    metrics = await send(address, "GET", f"/{path}")
    assert metrics.status == 200
    assert b"feedmesh_rpc_requests_total" in metrics.body
    assert (await send(address, "GET", "/nothing")).status == 404


def test_a_second_mesh_on_the_same_data_is_refused(running: tuple[Cli, dict[str, Any]]) -> None:
    cli, told = running
    refused = cli.run("up", "--detach")
    assert refused.returncode == 1
    assert "already running" in refused.stderr
    assert str(told["pids"]["supervisor"]) in refused.stderr
    assert cli.run("status").returncode == 0


async def test_data_and_tokens_outlive_a_restart_and_nothing_else_does(tmp_path: Path) -> None:
    cli = cli_at(tmp_path)
    told = cli.json("up", "--detach")
    try:
        posted = await send(
            address_of(told), "POST", "/v1/posts", body='{"caption": "to be kept"}', token=told["token"]
        )
        assert posted.status == 201
        assert cli.json("down") == {"stopped": True}
        assert not any(_runs(pid) for pid in told["pids"].values())
        assert cli.run("status").returncode == 3
        again = cli.json("up", "--detach")
        kept = await send(address_of(again), "GET", f"/v1/posts/{posted.json['post_id']}", token=told["token"])
        assert kept.json["post"]["caption"] == "to be kept"
        feed = await send(address_of(again), "GET", "/v1/feed?mode=LATEST", token=told["token"])
        assert posted.json["post_id"] in [post["post_id"] for post in feed.json["posts"]]
    finally:
        cli.run("down")


def test_ctrl_c_drains_within_two_seconds_and_forgets_temporary_data(tmp_path: Path) -> None:
    cli = cli_at(tmp_path)
    with foreground(cli, "--no-world", "--forget") as process:
        pids = [known.pid for known in cli.mesh.processes.values()]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2)
    assert process.returncode == 0, err
    assert "feedmesh is ready" in out
    assert not cli.data.exists()
    assert not any(_runs(pid) for pid in pids)


@pytest.mark.parametrize("part", ["valkey", "services", "envoy"])
def test_losing_a_part_stops_everything_and_names_it(tmp_path: Path, part: str) -> None:
    cli = cli_at(tmp_path)
    with foreground(cli, "--no-world") as process:
        mesh = cli.mesh
        os.kill(mesh.processes[part].pid, signal.SIGKILL)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 3
    assert f"{part} ended by itself (signal SIGKILL)" in err
    assert "next" in err
    assert not any(_runs(known.pid) for known in mesh.processes.values())
    assert load_mesh(cli.data) is None


def test_a_dead_supervisor_takes_its_parts_along_and_its_data_starts_again(tmp_path: Path) -> None:
    cli = cli_at(tmp_path)
    told = cli.json("up", "--detach", "--no-world", "--engine", "grpcio")
    os.kill(told["pids"]["supervisor"], signal.SIGKILL)
    try:
        assert cli.run("wait", "--timeout", "0").returncode == 3
        again = cli.json("up", "--detach")
        assert again["pids"]["supervisor"] != told["pids"]["supervisor"]
        assert not any(_runs(pid) for pid in told["pids"].values())
        assert cli.run("status").returncode == 0
        # Ids are minted at once: the dead services' numbers are not waited for.
        assert cli.run("seed", "world", "--users", "5").returncode == 0
    finally:
        cli.run("down")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

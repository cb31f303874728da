"""The cluster profile, real engines and a process per service: the same promises as on the embedded one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from bench.stored_world import Ids, StoredWorld, stored_graph
from feedmesh_cli.engines.addresses import EngineAddresses
from feedmesh_cli.mesh_file import Mesh, load_mesh
from feedmesh_cli.readiness import wait_until_ready
from feedmesh_cli.world import World, make_world
from foundation.cql.address import CqlAddress
from foundation.cql.session import open_cql
from foundation.events.port import POSTS_CREATED, Event
from foundation.model.clock import SystemClock
from foundation.model.tiers import PULL_FROM
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log
from tests.kit.eventually import eventually
from tests.kit.large_author import LARGE, LARGEST, READER_PLACES, large_author_world, readers_agree_with_the_model
from tests.kit.mesh import FEEDMESH, Client, running_mesh
from tests.kit.stored_cql import store_graph_cql
from tests.nemesis.load import Crowd
from tests.system.test_oracle import compare, loaded, posted, real_world
from tests.system.test_readme import block, run
from tests.system.test_state_machine import Network

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("cluster"), "--profile", "cluster") as mesh:
        yield mesh


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    made = Client(mesh)
    yield made
    await made.close()


def feedmesh(mesh: Mesh, *arguments: str, exit_code: int = 0) -> str:
    done = subprocess.run(
        [*FEEDMESH, *arguments, "--data", mesh.data], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


def told(mesh: Mesh, *arguments: str) -> Any:
    return json.loads(feedmesh(mesh, *arguments, "--json"))


def kill(mesh: Mesh, part: str) -> None:
    now = load_mesh(mesh.directory)
    assert now is not None
    os.kill(now.processes[part].pid, signal.SIGKILL)


def real_or_made_up(*, posts_per_user: int) -> World:
    return real_world(posts_per_user=posts_per_user) or make_world(users=900, seed=3)


async def stored(mesh: Mesh, world: StoredWorld, acting: Ids) -> None:
    store = CqlAddress.parse(EngineAddresses.running(mesh).store("graph_svc"))
    async with open_cql(store) as cql:
        await store_graph_cql(cql, world, acting, pull_from=PULL_FROM, now_ms=SystemClock().now_ms())


async def test_a_real_graph_gets_exactly_what_the_model_says(mesh: Mesh, client: Client) -> None:
    world = real_or_made_up(posts_per_user=10)
    graph = stored_graph(world, now_ms=SystemClock().now_ms())
    await stored(mesh, graph, np.arange(len(graph.users)))
    ids = list(graph.users.tolist())
    await compare(client, await posted(mesh, client, world, ids), ids)


@pytest.mark.nemesis  # 75 s more than the one above; the same on the embedded profile is in every run
async def test_a_real_graph_that_was_imported_gets_exactly_what_the_model_says(mesh: Mesh, client: Client) -> None:
    await compare(client, *await loaded(mesh, client, real_or_made_up(posts_per_user=20)))


@pytest.mark.nemesis  # 75 s; the same on the embedded profile is in every run
async def test_5000_readers_of_an_author_of_100000_followers_get_exactly_what_the_model_says(
    mesh: Mesh, client: Client
) -> None:
    world = large_author_world(seed=5, now_ms=SystemClock().now_ms())
    await stored(mesh, world, np.array([LARGEST, LARGE, *READER_PLACES]))
    await readers_agree_with_the_model(client, world)


async def test_posting_goes_on_while_kafka_is_away_and_nothing_is_lost(mesh: Mesh) -> None:
    crowd = await Crowd.gathered(mesh)
    async with crowd.busy() as history:
        await asyncio.sleep(2)
        before = history.acknowledged
        kill(mesh, "kafka")
        await asyncio.sleep(0.5)
        away = status(mesh)
        assert not away["healthy"]
        assert away["unpublished"]["post_svc"]["events"] > 0, "they were acknowledged and are in no log"
        await crowd.healthy()
        await asyncio.sleep(1)
    assert history.unknown == 0, "the store was there all the time"
    assert history.acknowledged > before + 20
    assert not history.strange
    await crowd.client.settled(timeout_s=90)
    assert status(mesh)["unpublished"]["post_svc"] == {"events": 0, "slots": 0}
    await crowd.complete()
    await crowd.client.close()


@pytest.mark.parametrize("part", ["cassandra", "valkey-2"])
async def test_a_store_that_is_killed_loses_nothing_that_was_acknowledged(mesh: Mesh, part: str) -> None:
    crowd = await Crowd.gathered(mesh)
    async with crowd.busy() as history:
        await asyncio.sleep(2)
        before = history.acknowledged
        kill(mesh, part)
        await asyncio.sleep(0.5)
        await crowd.healthy()
        await asyncio.sleep(2)
    assert before > 20
    assert history.acknowledged > before, "posting goes on"
    assert not history.strange
    await crowd.complete()
    await crowd.client.close()


def status(mesh: Mesh) -> Any:
    """Whether all is well or not."""
    done = subprocess.run(
        [*FEEDMESH, "status", "--json", "--data", mesh.data], capture_output=True, text=True, timeout=60, check=False
    )
    return json.loads(done.stdout)


class ClusterNetwork(Network):
    """The same lives; instead of the whole mesh one process is lost now and then."""

    @rule()
    def restart(self) -> None:
        turn = getattr(ClusterNetwork, "turn", 0)
        if getattr(self, "restarts", 0) >= 1:
            return
        self.restarts = 1
        ClusterNetwork.turn = turn + 1
        kill(self.client.mesh, ("fanout_worker", "post_svc", "graph_svc", "feed_svc")[turn % 4])

        async def well() -> None:
            await asyncio.sleep(0.5)  # so that the death is seen
            await wait_until_ready(self.data, timeout_s=30)

        self.do(well())


def test_random_lives_agree_with_the_model(mesh: Mesh) -> None:
    ClusterNetwork.data = mesh.directory
    run_state_machine_as_test(
        ClusterNetwork,
        settings=settings(
            max_examples=5,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_a_post_can_be_traced_and_the_log_read(mesh: Mesh, client: Client) -> None:
    crowd = await Crowd.gathered(mesh)
    async with crowd.busy():
        await asyncio.sleep(1)
    await crowd.complete()
    post_id = next(reversed(crowd.model.author_of))
    found = told(mesh, "trace", str(post_id))
    assert found["row"]["state"] == "ACTIVE"
    assert [record["topic"] for record in found["records"]].count(POSTS_CREATED) >= 1
    assert "miss it" not in found["feeds"]
    assert sum(found["feeds"].values()) == len(
        [user for user in crowd.ids if crowd.model.author_of[post_id] in crowd.model.follows[user]]
    )
    lines = feedmesh(mesh, "tail", POSTS_CREATED, "--decode", "--last", "3").splitlines()
    assert len(lines) == 3
    assert all("post_created" in json.loads(line)["event"] for line in lines)
    await crowd.client.close()


async def test_a_record_that_cannot_be_decoded_is_a_dead_letter_and_can_be_put_away(mesh: Mesh) -> None:
    async with open_log(MeshSettings(log_url=mesh.log_url)) as log:
        await log.append([Event(POSTS_CREATED, 1, b"\xff\xff no envelope")])

    async def letters() -> Any:
        return [one for one in told(mesh, "dlq", "ls")["letters"] if one["group"] == "fanout.posts"]

    (letter,) = await eventually(letters, timeout_s=30, every_s=0.5)
    assert letter["topic"] == POSTS_CREATED
    told(mesh, "dlq", "discard", "--reason", "a test", letter["id"])
    assert not await letters()


def test_what_is_applied_and_what_runs_is_told(mesh: Mesh) -> None:
    steps = told(mesh, "migrate", "status")["steps"]
    assert {step["standing"] for step in steps} == {"applied"}
    assert told(mesh, "migrate", "plan")["steps"] == []
    status = told(mesh, "status")
    assert set(status["processes"]) == {
        "supervisor", "cassandra", "kafka", "valkey-1", "valkey-2", "valkey-3", "envoy",
        "graph_svc", "post_svc", "rank_svc", "fanout_worker", "feed_svc",
    }  # fmt: skip
    assert all(0 < megabytes < 2_000 for megabytes in status["memory_mb"].values())
    assert sum(status["memory_mb"].values()) < 4_096


async def test_a_second_start_as_in_the_readme_finds_its_data_again(mesh: Mesh) -> None:
    """The last test of this module: the mesh of the others ends here."""
    crowd = await Crowd.gathered(mesh)
    async with crowd.busy():
        await asyncio.sleep(1)
    await crowd.complete()
    await crowd.client.close()
    now = load_mesh(mesh.directory)
    assert now is not None
    feedmesh(mesh, "down")
    assert not any(process.alive() for process in now.processes.values())
    setup, *commands, end = block("Real engines")
    assert (setup, end) == ("make setup EXTRA=cluster", ".venv/bin/feedmesh down")
    assert any(" up --profile cluster " in line for line in commands)
    try:
        for line in commands:
            began = SystemClock().monotonic()
            run(line.replace("/tmp/feedmesh-cluster", mesh.data), dict(os.environ))
            assert SystemClock().monotonic() - began < 120
        again = load_mesh(mesh.directory)
        assert again is not None
        assert not again.new
        crowd.mesh, crowd.client = again, Client(again)
        await crowd.complete()
        await crowd.client.close()
        run(end, dict(os.environ))
        assert not any(process.alive() for process in again.processes.values())
    finally:
        feedmesh(mesh, "down")

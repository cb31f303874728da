"""Each part of a cluster dies or hangs under load, one after the other: `make nemesis`. The report is docs/nemesis.md.

After each fault every acknowledged post is in every follower's feed exactly once, and nothing else is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feedmesh_cli.mesh_file import Mesh, load_mesh
from tests.kit.mesh import running_mesh
from tests.nemesis.load import Crowd, History
from tests.nemesis.report import Line, Report

pytestmark = [pytest.mark.nemesis, pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(600)]

PARTS = (
    "post_svc", "graph_svc", "feed_svc", "rank_svc", "fanout_worker", "envoy",
    "valkey-2", "kafka", "cassandra",
)  # fmt: skip
BEFORE_S = 3
HANG_S = 10
AFTER_S = 3


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("nemesis"), "--profile", "cluster", "--restart-after", "2") as mesh:
        yield mesh


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    made = Report()
    yield made
    made.write(os.environ.get("FEEDMESH_NEMESIS_REPORT"))


@pytest.fixture
async def crowd(mesh: Mesh) -> AsyncIterator[Crowd]:
    made = await Crowd.gathered(mesh)
    yield made
    await made.client.close()


def pid_of(mesh: Mesh, part: str) -> int:
    now = load_mesh(Path(mesh.data))
    assert now is not None
    return now.processes[part].pid


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_killed(mesh: Mesh, crowd: Crowd, report: Report, part: str) -> None:
    async with crowd.busy() as history:
        await asyncio.sleep(BEFORE_S)
        os.kill(pid_of(mesh, part), signal.SIGKILL)
        await asyncio.sleep(0.5)
        healthy_s = await crowd.healthy()
        await asyncio.sleep(AFTER_S)
    await judged(crowd, history, report, f"SIGKILL {part}", healthy_s)


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_hangs(mesh: Mesh, crowd: Crowd, report: Report, part: str) -> None:
    pid = pid_of(mesh, part)
    async with crowd.busy() as history:
        await asyncio.sleep(BEFORE_S)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(HANG_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        healthy_s = await crowd.healthy()
        await asyncio.sleep(AFTER_S)
    await judged(crowd, history, report, f"SIGSTOP {part} for {HANG_S} s", healthy_s)


async def judged(crowd: Crowd, history: History, report: Report, fault: str, healthy_s: float) -> None:
    line = Line(fault=fault, history=history, healthy_s=healthy_s, complete_s=None)
    report.lines.append(line)
    line.complete_s = await crowd.complete()
    assert not history.strange
    assert history.acknowledged > 50

"""Two fan-out workers of one group are replaced one after the other under load: nothing is lost, doubled or late."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.kit.mesh import FEEDMESH, running_mesh
from tests.nemesis.load import Crowd

pytestmark = [pytest.mark.nemesis, pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 3
LATE_S = 2.0


async def test_workers_are_replaced_under_load(tmp_path: Path) -> None:
    with running_mesh(tmp_path / "mesh", "--profile", "cluster", "--fanout-workers", "2") as mesh:
        crowd = await Crowd.gathered(mesh)
        async with crowd.busy() as before:
            await asyncio.sleep(5)
        async with crowd.busy() as during:
            await asyncio.sleep(2)
            for _ in range(ROUNDS):
                for worker in ("fanout_worker", "fanout_worker-2"):
                    restarting = await asyncio.create_subprocess_exec(
                        *FEEDMESH, "restart", worker, "--data", mesh.data, stdout=subprocess.DEVNULL
                    )
                    assert await restarting.wait() == 0
                    await asyncio.sleep(2)  # it joins its groups
        await crowd.complete()
        assert not during.strange
        print(f"slowest delivery {max(before.delays_s):.2f} s at rest, {max(during.delays_s):.2f} s while restarting")
        assert max(during.delays_s) < max(before.delays_s) + LATE_S
        await crowd.client.close()

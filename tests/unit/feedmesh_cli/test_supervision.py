"""Parts of a cluster that end are started again, and given up when that is of no use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from feedmesh_cli import supervision
from feedmesh_cli.children import start_child
from feedmesh_cli.failures import CliError
from feedmesh_cli.mesh_file import Mesh, ProcessId
from feedmesh_cli.starting import Part, Program


def mesh_in(data: Path) -> Mesh:
    return Mesh(
        data=str(data), temporary=False, profile="cluster", edge="http://127.0.0.1:1", envoy_admin="", status="",
        redis="", services={}, internal_key="", processes={"supervisor": ProcessId.of(os.getpid())},
    )  # fmt: skip


async def test_a_part_that_was_asked_to_end_and_cannot_start_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "MOST_IN_A_ROW", 3)
    tries = 0

    async def fails() -> Program:
        nonlocal tries
        tries += 1
        assert tries < 50, "it is tried without end"
        raise CliError("its port is taken")

    ended = await start_child("part", [sys.executable, "-c", ""], tmp_path / "part.log")
    assert await ended.wait() == 0  # as after SIGTERM
    told: list[str] = []
    reviver = supervision._Reviver(mesh_in(tmp_path), told.append, after_s=0.01)
    with pytest.raises(CliError, match="part ended by itself"):
        await reviver.watch(Part(name="part", server=Program(ended), again=fails))
    assert tries == 4, "at once, and after each short life"
    assert sum("did not start" in line for line in told) == tries

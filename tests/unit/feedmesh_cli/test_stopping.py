"""What may be restarted alone."""

import os
from pathlib import Path

import pytest

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh, ProcessId
from feedmesh_cli.stopping import restart_part


async def test_a_part_of_an_embedded_mesh_is_not_restarted(tmp_path: Path) -> None:
    me = ProcessId.of(os.getpid())  # it would be this test that is asked to end
    mesh = Mesh(
        data=str(tmp_path), temporary=False, profile="embedded", edge="", envoy_admin="", status="", redis="",
        services={}, internal_key="", new=False, engines={}, processes={"supervisor": me, "envoy": me},
    )  # fmt: skip
    with pytest.raises(CliError, match="envoy cannot be restarted alone") as refused:
        await restart_part(mesh, "envoy", timeout_s=1)
    assert refused.value.code is ExitCode.USAGE

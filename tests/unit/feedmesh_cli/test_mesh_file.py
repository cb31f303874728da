"""What other commands know of a running mesh."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh, ProcessId, default_directory, load_mesh, running_mesh


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDMESH_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    (tmp_path / "data").mkdir()
    return Mesh(
        data=str(tmp_path / "data"),
        temporary=False,
        profile="embedded",
        edge="http://127.0.0.1:8080",
        envoy_admin="127.0.0.1:8081",
        status="http://127.0.0.1:8082",
        redis="127.0.0.1:8083",
        services={"feed_svc": "127.0.0.1:8088"},
        internal_key="secret",
        processes={"supervisor": ProcessId.of(os.getpid())},
        ready=True,
    )


def test_a_mesh_reads_back_as_written_and_only_by_its_owner(mesh: Mesh) -> None:
    mesh.save()
    assert load_mesh(mesh.directory) == mesh
    assert stat.S_IMODE((mesh.directory / "mesh.json").stat().st_mode) == 0o600


def test_the_mesh_started_last_is_found_without_its_directory(mesh: Mesh) -> None:
    mesh.save()
    mesh.make_default()
    assert running_mesh(None) == mesh
    mesh.forget()
    assert default_directory() is None


def test_forgetting_one_mesh_leaves_the_pointer_to_another(mesh: Mesh, tmp_path: Path) -> None:
    replace(mesh, data=str(tmp_path / "other")).make_default()
    mesh.forget()
    assert default_directory() == tmp_path / "other"


def test_a_mesh_whose_supervisor_ended_is_not_running(mesh: Mesh) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = ProcessId.of(ended.pid)
    assert process.alive()
    ended.communicate()
    assert not process.alive()
    replace(mesh, processes={"supervisor": process}).save()
    with pytest.raises(CliError) as failure:
        running_mesh(mesh.directory)
    assert failure.value.code == ExitCode.UNHEALTHY


def test_a_pid_that_was_given_to_another_process_is_not_ours() -> None:
    mine = ProcessId.of(os.getpid())
    assert mine.alive()
    assert not ProcessId(mine.pid, mine.started - 3600).alive()


@pytest.mark.parametrize("content", [None, "", "{", '{"data": 1}', '{"processes": {}}'])
def test_a_missing_or_broken_file_is_no_mesh(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "mesh.json").write_text(content)
    assert load_mesh(tmp_path) is None
    with pytest.raises(CliError):
        running_mesh(tmp_path)


def test_a_mesh_that_is_still_starting_is_not_ready_for_calls(mesh: Mesh) -> None:
    replace(mesh, ready=False).save()
    with pytest.raises(CliError, match="still starting"):
        running_mesh(mesh.directory)

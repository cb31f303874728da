"""The command line as scripts see it: exit codes, JSON, help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    "up",
    "down",
    "restart",
    "migrate up",
    "migrate plan",
    "migrate status",
    "status",
    "wait",
    "token",
    "call",
    "seed",
    "seed graph",
    "seed world",
]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDMESH_STATE_DIR", str(tmp_path / "state"))


def feedmesh(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feedmesh_cli", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = feedmesh(*command.split(), "--help")
    assert shown.returncode == 0
    assert "Usage:" in shown.stdout
    if command != "seed":
        assert "--json" in shown.stdout
        assert "--data" in shown.stdout


def test_help_loads_no_engine_and_no_driver() -> None:
    program = (
        "import sys, runpy; sys.argv = ['feedmesh', '--help']\n"
        "try: runpy.run_module('feedmesh_cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('grpc', 'numpy', 'sqlalchemy', 'jwt', 'psutil', 'yaml') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert shown.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["up", "--port-base", "x"], ["up", "--profile", "moon"], ["token"], ["seed", "world", "--users", "1"]],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    shown = feedmesh(*arguments)
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["wait", "--timeout", "0"],
        ["token", "--user", "ana"],
        ["call", "FeedService/GetFeed"],
        ["seed", "world"],
    ],
)
def test_without_a_mesh_the_exit_code_is_3_and_the_next_step_is_told(arguments: list[str], tmp_path: Path) -> None:
    shown = feedmesh(*arguments)
    assert shown.returncode == 3
    assert shown.stdout == ""
    assert "no mesh is running" in shown.stderr
    assert "feedmesh up" in shown.stderr
    told = feedmesh(*arguments, "--json", "--data", str(tmp_path))
    assert told.returncode == 3
    failure = json.loads(told.stdout)
    assert failure["error"] == "no mesh is running"
    assert failure["where"] == str(tmp_path)
    assert failure["next"].startswith("feedmesh up")


def test_stopping_no_mesh_is_fine() -> None:
    shown = feedmesh("down", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, {"stopped": False})

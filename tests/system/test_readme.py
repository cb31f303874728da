"""The commands of the README do what it says, in the order it says, against a mesh like `make up` starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A mesh with its small world; its pointer lies in a state directory of the test's own."""
    environment = {**os.environ, "FEEDMESH_STATE_DIR": str(tmp_path / "state")}
    up = [sys.executable, "-m", "feedmesh_cli", "up", "--detach", "--json", "--data", str(tmp_path / "mesh")]
    started = subprocess.run(up, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["edge"].startswith("http://")
    yield environment
    down = [sys.executable, "-m", "feedmesh_cli", "down", "--data", str(tmp_path / "mesh")]
    subprocess.run(down, env=environment, capture_output=True, timeout=60, check=False)


def block(title: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    section = text.split(f"## {title}\n")[1]
    fenced = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert fenced is not None
    return fenced.group(1).strip().splitlines()


def test_the_two_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert block("Two commands") == ["make up", "make test"]
    assert {"up", "test"} <= targets


def run(line: str, environment: dict[str, str]) -> None:
    words = shlex.split(line)
    assert words[0] == ".venv/bin/feedmesh"
    done = subprocess.run(
        [sys.executable, "-m", "feedmesh_cli", *words[1:]],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def test_what_it_offers_to_try_works(mesh: dict[str, str]) -> None:
    commands = block("Try it")
    assert len(commands) >= 5
    for line in commands:
        run(line, mesh)

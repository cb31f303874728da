"""A benchmark that is ended takes the mesh of its own along."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

SMALL = ["--seconds", "0.3", "--readers", "20", "--follows", "10", "--pulled", "1"]


def started(folder: Path) -> subprocess.Popen[str]:
    """A benchmark whose mesh lies below *folder*."""
    command = [sys.executable, "-m", "feedmesh_cli", "bench", "ceiling", *SMALL]
    return subprocess.Popen(
        ["env", f"TMPDIR={folder}", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def parts(folder: Path) -> list[str]:
    """The command lines of all that runs on *folder*, but for the benchmark's own."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether *true* becomes so in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_one_that_is_ended_takes_its_mesh_along(tmp_path: Path) -> None:
    bench = started(tmp_path)
    try:
        assert within(60, lambda: any("envoy" in line for line in parts(tmp_path))), "there is a mesh to be left behind"
        bench.send_signal(signal.SIGTERM)
        _, err = bench.communicate(timeout=60)
        assert bench.returncode != 0, err
        # A process that was ended may take a moment to be gone.
        assert within(10, lambda: not parts(tmp_path)), f"{parts(tmp_path)}\n{err}"
        assert not [*tmp_path.glob("feedmesh*")]
    finally:
        bench.kill()
        bench.communicate()

"""Child processes."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from feedmesh_cli.children import start_child, tail
from tests.kit.eventually import eventually

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


async def started(log: Path) -> None:
    async def says_so() -> bool:
        return "up" in tail(log)

    await eventually(says_so)


async def test_a_child_ends_when_asked_and_tells_how(tmp_path: Path) -> None:
    child = await start_child("sleeper", SLEEPER, tmp_path / "log")
    await started(child.log)
    await child.stop(grace_s=5)
    assert child.why_it_ended() == "signal SIGTERM"
    await child.stop(grace_s=5)


async def test_a_child_that_will_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = await start_child("stubborn", STUBBORN, tmp_path / "log")
    await started(child.log)
    await child.stop(grace_s=0.1)
    assert child.why_it_ended() == "signal SIGKILL"


async def test_the_exit_code_and_the_output_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; [print(n) for n in range(100)]; sys.exit(7)"]
    child = await start_child("failing", command, tmp_path / "log")
    assert await child.wait() == 7
    assert child.why_it_ended() == "exit code 7"
    assert tail(child.log, 3) == "97\n98\n99"
    assert tail(tmp_path / "absent") == ""


async def test_a_child_reads_what_it_is_told_and_a_dead_one_is_no_error(tmp_path: Path) -> None:
    child = await start_child("reader", [sys.executable, "-c", "print(input())"], tmp_path / "log", pipe=True)
    await child.tell(b"hello\n")
    assert await child.wait() == 0
    await child.tell(b"more\n")
    assert tail(child.log) == "hello"


async def test_the_log_of_the_run_before_is_kept_beside(tmp_path: Path) -> None:
    for word in ("first", "second"):
        child = await start_child("echo", [sys.executable, "-c", f"print('{word}')"], tmp_path / "it.log")
        await child.wait()
    assert tail(tmp_path / "it.log") == "second"
    assert tail(tmp_path / "it.previous.log") == "first"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
async def test_children_die_with_their_supervisor(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from feedmesh_cli.children import start_child
async def main():
    child = await start_child("sleeper", {SLEEPER!r}, Path({str(tmp_path / "log")!r}))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await started(tmp_path / "log")
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    async def gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    await eventually(gone)
    assert parent.pid != os.getpid()

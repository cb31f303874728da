"""Child processes that never outlive their supervisor, with their output in a log file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundation.runtime.settings import inherited_environment

TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class Child:
    """One running child. Made by start_child."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.returncode

    async def tell(self, line: bytes) -> None:
        """Writes to its stdin."""
        if self._process.stdin is None:
            raise RuntimeError(f"{self.name} was started without a pipe")
        with contextlib.suppress(ConnectionError):  # it ended: whoever waits for it will tell
            self._process.stdin.write(line)
            await self._process.stdin.drain()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    async def stop(self, *, grace_s: float) -> None:
        """Asks it to end, and ends it after *grace_s*."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """Ends it now."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def why_it_ended(self) -> str:
        """How: `exit code 1` or `signal SIGKILL`."""
        code = self.exit_code
        if code is None:
            return "still running"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"


async def start_child(
    name: str, command: Sequence[str], log: Path, *, pipe: bool = False, environment: Mapping[str, str] | None = None
) -> Child:
    """Starts *command* in a process group of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.

    *environment* is added to ours; it holds secrets, which a command line would show to everybody.

    The log of the run before is kept beside *log* as .previous.log.
    """
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_suffix(".previous.log"))  # noqa: ASYNC240 - a rename, before anything runs
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if pipe else asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**inherited_environment(), **environment} if environment is not None else None,
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Child(name, process, log)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of *log*; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None)
    """Loaded before any fork: loading in the child could wait for a lock nobody holds there any more."""

    def _die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

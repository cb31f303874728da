"""What the fan-out does about being behind: shown, overridden for a while, and given back."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fanout_worker.adapters.pressure_redis import (
    Override,
    Standing,
    clear_override,
    read_history,
    read_standing,
    set_override,
)
from fanout_worker.model import Level
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh
from foundation.errors import DomainError
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_redis

T = TypeVar("T")

MEANING = {
    Level.NORMAL: "everything is pushed",
    Level.SCALE_OUT: "more workers are asked for",
    Level.PRESENT_ONLY: "absentees are left to rebuilds",
    Level.PULL_ALL: "all posts are left to readers",
}
SHOWN = 5
LONGEST_S = 86_400
_DURATION = re.compile(r"(\d{1,6})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600}
_CLOCK = SystemClock()


@dataclass(frozen=True, kw_only=True)
class ShownLevel:
    """How things stand, and what changed lately."""

    standing: Standing
    history: list[dict[str, Any]]

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        standing, override = self.standing, self.standing.override
        return {
            "level": int(standing.level),
            "by_lag": int(standing.by_lag),
            "behind_s": standing.seconds,
            "workers": standing.workers,
            "override": override
            and {"level": int(override.level), "until_ms": override.until_ms, "who": override.who, "why": override.why},
            "history": self.history,
        }

    def as_text(self) -> str:
        """For people."""
        standing, override = self.standing, self.standing.override
        lines = [
            f"level {standing.level:d}: {MEANING[standing.level]}",
            f"  behind   {standing.seconds:.1f} s, say {standing.workers} workers: level {standing.by_lag:d} by itself",
        ]
        if override is not None:
            lines.append(
                f"  override {override.level:d} until {_time(override.until_ms)} by {override.who}: {override.why}"
            )
        lines += [
            f"  {_time(one['at_ms'])}  {'cleared' if one['level'] is None else one['level']}  by {one['who']}"
            for one in self.history
        ]
        return "\n".join(lines)


async def show_level(mesh: Mesh) -> ShownLevel:
    """Raises CliError when the cache does not answer."""

    async def work(redis: RedisCluster) -> ShownLevel:
        return ShownLevel(standing=await read_standing(redis, _CLOCK), history=[*await read_history(redis, SHOWN)])

    return await _with_redis(mesh, work)


async def override_level(mesh: Mesh, level: int, *, lasting: str, why: str) -> ShownLevel:
    """Workers take *level* (0-3) for the time *lasting* ("10m"). Raises CliError."""
    if level not in list(Level):
        raise CliError(f"there is no level {level}", cause="levels are 0 to 3", code=ExitCode.USAGE)
    until_ms = _CLOCK.now_ms() + duration_s(lasting) * 1_000

    async def work(redis: RedisCluster) -> None:
        override = Override(level=Level(level), until_ms=until_ms, who=operator(), why=why)
        await set_override(redis, _CLOCK, override)

    await _with_redis(mesh, work)
    return await show_level(mesh)


async def release_level(mesh: Mesh) -> bool:
    """Whether there was an override to end. Raises CliError."""
    return await _with_redis(mesh, lambda redis: clear_override(redis, _CLOCK, who=operator()))


def duration_s(text: str) -> int:
    """Seconds of "90s", "10m" or "2h". Raises CliError (exit 2), also above a day."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_S:
        raise CliError(
            f"{text!r} is no time to keep a level for",
            cause="a number and s, m or h, a day at most",
            next_step="--for 10m",
            code=ExitCode.USAGE,
        )
    return seconds


def operator() -> str:
    """Who runs this: user@host."""
    return f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


async def _with_redis(mesh: Mesh, work: Callable[[RedisCluster], Awaitable[T]]) -> T:
    try:
        async with open_redis(MeshSettings(redis=mesh.redis)) as redis:
            return await work(redis)
    except DomainError as failure:
        raise CliError(
            "the level is not known", cause=failure.reason, next_step="feedmesh status", code=ExitCode.UNHEALTHY
        ) from failure


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

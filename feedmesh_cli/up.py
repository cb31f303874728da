"""`feedmesh up`: the embedded mesh in the foreground, or behind a supervisor of its own with --detach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from feedmesh_cli.edge import DESCRIPTORS
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh, load_mesh
from feedmesh_cli.starting import UpOptions
from feedmesh_cli.supervision import run_mesh
from foundation.model.clock import SystemClock

if TYPE_CHECKING:
    from feedmesh_cli.tokens import UserToken

WORLD_USERS = 50
WORLD_SEED = 1
DETACH_TIMEOUT_S = 180.0
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Started:
    """A mesh that is ready, and what to tell about it."""

    mesh: Mesh
    user: UserToken | None
    """A token of the first user of the small world, where there is one."""
    seconds: float

    def as_data(self) -> dict[str, Any]:
        """For --json; without the internal key."""
        mesh = self.mesh
        return {
            "edge": mesh.edge,
            "data": mesh.data,
            "temporary": mesh.temporary,
            "profile": mesh.profile,
            "status": f"{mesh.status}/status",
            "metrics": f"{mesh.status}/metrics",
            "envoy_admin": f"http://{mesh.envoy_admin}",
            "redis": without_password(mesh.redis),
            "engines": {name: without_password(url) for name, url in mesh.engines.items()},
            "services": dict(mesh.services),
            "pids": {name: process.pid for name, process in mesh.processes.items()},
            "user": DEMO_USER if self.user else None,
            "user_id": self.user.user_id if self.user else None,
            "token": self.user.token if self.user else None,
            "seconds": self.seconds,
        }

    def as_text(self) -> str:
        """What it offers and what to try, ready to paste."""
        mesh = self.mesh
        command = _command()
        method = "feedmesh.feed.v1.FeedService/GetFeed"
        protoset = _near(DESCRIPTORS)
        header = '-H "authorization: Bearer $TOKEN"'
        at = "" if mesh.temporary else f" --data {mesh.data}"
        kept = "memory of this run only (keep it with --data DIR)" if mesh.temporary else mesh.data
        lines = [
            f"feedmesh is ready in {self.seconds:.1f} s   profile {mesh.profile}   data: {kept}",
            "",
            f"  REST, gRPC, gRPC-web  {mesh.edge}",
            f"  metrics, status       {mesh.status}/metrics   {mesh.status}/status",
            f"  Envoy's admin page    http://{mesh.envoy_admin}",
            f"  Valkey                {without_password(mesh.redis)}",
            *(f"  {name.capitalize():<21} {without_password(url)}" for name, url in mesh.engines.items()),
            f"  logs                  {mesh.data}/logs",
            "",
        ]
        if self.user:
            lines += [
                f"try, as {DEMO_USER}:",
                f"  TOKEN={self.user.token}",
                f'  curl {header} "{mesh.edge}/v1/feed?limit=3"',
                f"  grpcurl -plaintext -protoset {protoset} {header} {mesh.edge_address} {method}",
                f"  {command} call {method} '{{\"limit\":3}}' --user {DEMO_USER}{at}",
                "",
            ]
        lines += [
            f"next: {command} status{at}   {command} seed world --users 1000{at}   {command} down{at}",
            "For development: local keys, no TLS, loopback only.",
        ]
        return "\n".join(lines)


DEMO_USER = "ana"


async def up_in_foreground(options: UpOptions, *, world: bool, tell: Callable[[Started], None]) -> None:
    """Runs the mesh until a signal; *tell* is called once it is ready."""
    clock = SystemClock()
    began = clock.monotonic()

    user: UserToken | None = None

    async def prepare(mesh: Mesh) -> None:
        nonlocal user
        if world and mesh.new:
            await load_small_world(mesh)
        user = await _demo_user(mesh)

    def started(mesh: Mesh) -> None:
        tell(Started(mesh=mesh, user=user, seconds=round(clock.monotonic() - began, 2)))

    await run_mesh(options, prepare=prepare, started=started, report=_report)


async def load_small_world(mesh: Mesh) -> None:
    """The world that a first start offers to try things on."""
    from feedmesh_cli.loading import load
    from feedmesh_cli.world import make_world

    world = make_world(WORLD_USERS, seed=WORLD_SEED)
    await load(mesh, world.usernames, world.follows, world.posts)


async def up_detached(options: UpOptions, arguments: list[str]) -> Started:
    """Starts a supervisor in a session of its own and returns when its mesh is ready. Raises what it failed with."""
    clock = SystemClock()
    began = clock.monotonic()
    logs = options.data / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "feedmesh_cli", "up", "--json", "--data", str(options.data), *arguments]
    if options.temporary:
        command.append("--forget")
    with (logs / "supervisor.log").open("w+b") as output:
        # Its own session outlives this loop: asyncio's subprocess would be ended with it.
        supervisor = subprocess.Popen(  # noqa: ASYNC220
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
        while True:
            mesh = load_mesh(options.data)
            if mesh and mesh.ready and mesh.processes["supervisor"].pid == supervisor.pid:
                user = await _demo_user(mesh)
                return Started(mesh=mesh, user=user, seconds=round(clock.monotonic() - began, 2))
            if supervisor.poll() is not None:
                raise _supervisor_failed(output, options.data)
            if clock.monotonic() - began > DETACH_TIMEOUT_S:
                supervisor.terminate()
                raise CliError(
                    f"the mesh was not ready in {DETACH_TIMEOUT_S:.0f} s",
                    where=str(logs),
                    cause="the machine is overloaded",
                    next_step="feedmesh up, in the foreground, shows how far it comes",
                    code=ExitCode.UNHEALTHY,
                )
            await asyncio.sleep(POLL_S)


def _supervisor_failed(output: IO[bytes], data: Path) -> CliError:
    """The error the supervisor printed; the file may be unlinked by now, but is still open here."""
    output.seek(0)
    text = output.read().decode(errors="replace")
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            return CliError(
                told["error"],
                where=told.get("where", ""),
                cause=told.get("cause", ""),
                next_step=told.get("next", ""),
                detail=told.get("detail", ""),
                code=ExitCode(told["exit_code"]),
            )
    return CliError(
        "the supervisor ended before the mesh was ready",
        where=str(data),
        next_step="feedmesh up, in the foreground",
        code=ExitCode.UNHEALTHY,
        detail=text[-2000:],
    )


async def _demo_user(mesh: Mesh) -> UserToken | None:
    """A token to try things with; None in a mesh without the small world."""
    from feedmesh_cli.tokens import token_for  # takes a while: the services are starting meanwhile

    try:
        return await token_for(mesh, DEMO_USER)
    except CliError:
        return None


def temporary_directory() -> Path:
    """A data directory that goes with its mesh."""
    return Path(tempfile.mkdtemp(prefix="feedmesh-"))


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    scheme, mark, rest = url.rpartition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{mark}{login.partition(':')[0]}{at}{place}"


def _report(text: str) -> None:
    print(f"feedmesh: {text}", file=sys.stderr, flush=True)


def _command() -> str:
    """How the reader of the text calls this program."""
    if shutil.which("feedmesh"):
        return "feedmesh"
    return _near(Path(sys.executable).parent / "feedmesh")


def _near(path: Path) -> str:
    """*path* as short as it works from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

"""What is running: the file mesh.json in a data directory, and the pointer to the mesh that was started last.

The file holds the internal key, so only its owner can read it. A process is known by pid and start time together:
a pid alone may have been given to another program since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from feedmesh_cli.failures import CliError, ExitCode
from foundation.runtime.settings import from_environment

MESH_FILE = "mesh.json"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for certain."""

    pid: int
    started: float
    """Seconds since 1970 as the kernel tells it."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has *pid* now."""
        import psutil

        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            # The kernel counts in ticks of 10 ms and psutil rounds.
            return abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def memory_mb(self) -> int:
        """Its resident memory; 0 once it has ended."""
        import psutil

        try:
            return int(psutil.Process(self.pid).memory_info().rss // 2**20)
        except psutil.NoSuchProcess:
            return 0


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A running mesh as its supervisor wrote it down."""

    data: str
    """The data directory."""
    temporary: bool
    """Whether the directory goes when the mesh stops."""
    profile: str
    edge: str
    """Base URL of Envoy."""
    envoy_admin: str
    """ "host:port" of Envoy's admin page."""
    status: str
    """Base URL of /status and /metrics of the services."""
    redis: str
    """Comma list of "host:port"."""
    services: Mapping[str, str]
    """Service to "host:port"."""
    internal_key: str
    processes: Mapping[str, ProcessId] = field(default_factory=dict)
    """Part to process: supervisor, envoy, the engines; `services` (embedded) or each service by its name."""
    ready: bool = False
    """Whether it has ever been ready for calls."""
    new: bool = False
    """Whether its stores were empty when it started."""
    engines: Mapping[str, str] = field(default_factory=dict)
    """Engine to the URL under which the services use it; with passwords, if it has any."""

    @property
    def directory(self) -> Path:
        """The data directory as a path."""
        return Path(self.data)

    @property
    def logs(self) -> Path:
        """Where the services' logs are, one file for each process."""
        return self.directory / "logs"

    @property
    def edge_address(self) -> str:
        """Host and port of Envoy."""
        return self.edge.split("://", 1)[1]

    @property
    def log_url(self) -> str:
        """The event log, as services are told it."""
        return self.engines.get("kafka") or f"sqlite:///{self.directory / 'log.db'}"

    def alive(self) -> bool:
        """Whether the supervisor still runs."""
        return self.processes["supervisor"].alive()

    def save(self) -> None:
        """Writes mesh.json whole or not at all."""
        path = self.directory / MESH_FILE
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
        partial.replace(path)

    def forget(self) -> None:
        """Removes mesh.json and, where it leads here, the pointer."""
        (self.directory / MESH_FILE).unlink(missing_ok=True)
        pointer = _pointer()
        if pointer.is_file() and pointer.read_text(encoding="utf-8").strip() == self.data:
            pointer.unlink(missing_ok=True)

    def make_default(self) -> None:
        """Lets other commands find this mesh without --data. Best effort: --data always works."""
        pointer = _pointer()
        try:
            pointer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pointer.write_text(self.data + "\n", encoding="utf-8")
        except OSError:
            return


def load_mesh(directory: Path) -> Mesh | None:
    """The mesh written down in *directory*, running or not; None where there is none or the file is unreadable."""
    try:
        fields = json.loads((directory / MESH_FILE).read_text(encoding="utf-8"))
        fields["processes"] = {name: ProcessId(**process) for name, process in fields["processes"].items()}
        return Mesh(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def running_mesh(data: Path | None) -> Mesh:
    """The mesh of *data*, or the one started last. Raises CliError (exit 3) when it does not run."""
    directory = data or default_directory()
    if directory is None:
        raise CliError(
            "no mesh is running",
            where=f"no --data was given and {_pointer()} names none",
            cause="it was not started, or it stopped",
            next_step="feedmesh up --detach",
            code=ExitCode.UNHEALTHY,
        )
    mesh = load_mesh(directory.absolute())
    if mesh is None or not mesh.alive():
        raise CliError(
            "no mesh is running",
            where=str(directory),
            cause="its supervisor has ended" if mesh else f"there is no {MESH_FILE} in it",
            next_step=f"feedmesh up --detach --data {directory}" if data else "feedmesh up --detach",
            code=ExitCode.UNHEALTHY,
        )
    if not mesh.ready:
        raise CliError(
            "the mesh is still starting",
            where=mesh.data,
            next_step="feedmesh wait",
            code=ExitCode.UNHEALTHY,
        )
    return mesh


def default_directory() -> Path | None:
    """The data directory of the mesh that was started last."""
    try:
        return Path(_pointer().read_text(encoding="utf-8").strip())
    except OSError:
        return None


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the pointer lies, from the environment."""

    state_dir: str = ""
    """FEEDMESH_STATE_DIR. Empty: /run/user/<uid>/feedmesh, or ~/.local/state/feedmesh without a login session."""


def _pointer() -> Path:
    given = from_environment(_Places).state_dir
    if given:
        return Path(given) / "default"
    session = Path(f"/run/user/{os.getuid()}")
    base = session if os.access(session, os.W_OK) else Path.home() / ".local/state"
    return base / "feedmesh" / "default"

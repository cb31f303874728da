"""The jars of the Java engines: named with their checksums in jars.lock, downloaded once, checked byte by byte."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from feedmesh_cli.failures import CliError, ExitCode
from foundation.runtime.settings import from_environment

LOCK = Path(__file__).with_name("jars.lock")
AT_ONCE = 8
TRIES = 4
TIMEOUT_S = 60

Report = Callable[[int, int], None]
"""Called with jars that are there, and all."""


@dataclass(frozen=True, kw_only=True)
class JarPlaces:
    """Where jars come from and where they are kept, from the environment."""

    maven_url: str = "https://repo1.maven.org/maven2"
    """FEEDMESH_MAVEN_URL: a Maven repository or a mirror of one."""
    cache_dir: str = ""
    """FEEDMESH_CACHE_DIR. Empty: ~/.cache/feedmesh."""

    @property
    def directory(self) -> Path:
        """Where jars are kept."""
        return (Path(self.cache_dir) if self.cache_dir else Path.home() / ".cache/feedmesh") / "jars"


@dataclass(frozen=True)
class Jar:
    """One file of the lock."""

    sha256: str
    path: str
    """Below the root of a Maven repository."""


def locked_jars(engine: str) -> list[Jar]:
    """The jars of *engine* ("kafka", "cassandra")."""
    jars: list[Jar] = []
    section = ""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line[1 : line.index("]")]
        elif section == engine and line and not line.startswith("#"):
            jars.append(Jar(*line.split()))
    return jars


def missing_jars(engines: Sequence[str], places: JarPlaces | None = None) -> int:
    """How many jars a start would have to download."""
    directory = (places or from_environment(JarPlaces)).directory
    wanted = {jar.path for engine in engines for jar in locked_jars(engine)}
    return sum(not (directory / path).exists() for path in wanted)


async def class_paths(engines: Sequence[str], report: Report, places: JarPlaces | None = None) -> dict[str, str]:
    """Engine to its Java class path, every jar present and checked. Raises CliError."""
    places = places or from_environment(JarPlaces)
    jars = {engine: locked_jars(engine) for engine in engines}
    wanted = list({jar.path: jar for of_engine in jars.values() for jar in of_engine}.values())
    missing = [jar for jar in wanted if not (places.directory / jar.path).exists()]
    done = len(wanted) - len(missing)
    if missing:
        report(done, len(wanted))
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="jars") as threads:
            downloads = [loop.run_in_executor(threads, _download, jar, places) for jar in missing]
            try:
                for download in asyncio.as_completed(downloads):
                    await download
                    done += 1
                    report(done, len(wanted))
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
    return {engine: ":".join(str(places.directory / jar.path) for jar in jars[engine]) for engine in engines}


def _download(jar: Jar, places: JarPlaces) -> None:
    url = f"{places.maven_url.rstrip('/')}/{jar.path}"
    for chance in range(TRIES):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=_trust()) as answer:  # noqa: S310 - the setting's scheme
                content: bytes = answer.read()
            break
        except (urllib.error.URLError, OSError) as failure:
            if chance == TRIES - 1 or (isinstance(failure, urllib.error.HTTPError) and failure.code < 500):
                raise CliError(
                    "a jar cannot be downloaded",
                    where=url,
                    cause=str(failure),
                    next_step="check the network, or name a mirror: FEEDMESH_MAVEN_URL=https://… feedmesh up",
                ) from failure
    found = hashlib.sha256(content).hexdigest()
    if found != jar.sha256:
        raise CliError(
            "a downloaded jar is not the one that was pinned",
            where=url,
            cause=f"its SHA-256 is {found}, feedmesh wants {jar.sha256}",
            next_step="check FEEDMESH_MAVEN_URL: it must be an unchanged mirror of Maven Central",
            code=ExitCode.FAILURE,
        )
    path = places.directory / jar.path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{found[:8]}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()

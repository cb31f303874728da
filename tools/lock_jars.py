"""Writes feedmesh_cli/engines/jars.lock: every jar of the cluster profile's Java engines with its SHA-256.

Needs Maven (`mvn`) and the network; run it when a version changes and commit what it wrote. `feedmesh up --profile
cluster` itself needs neither Maven nor this tool: it downloads what the lock names and checks every byte.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "feedmesh_cli/engines/jars.lock"
ENGINES = {
    "kafka": ["org.apache.kafka:kafka_2.13:4.1.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"],
    "cassandra": ["org.apache.cassandra:cassandra-all:5.0.5"],
}
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>feedmesh</groupId><artifactId>engine</artifactId><version>1</version><dependencies>{}</dependencies></project>
"""


def dependency(coordinate: str) -> str:
    """A dependency of a pom."""
    group, artifact, version = coordinate.split(":")
    return (
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
    )


def resolve(coordinates: list[str]) -> list[str]:
    """Lines "sha256 path/in/repository.jar" of all runtime jars."""
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        (work / "pom.xml").write_text(POM.format("".join(map(dependency, coordinates))))
        out = work / "jars"
        subprocess.run(
            [
                "mvn", "-q", "-B", "-f", str(work / "pom.xml"), "dependency:copy-dependencies",
                "-DincludeScope=runtime", f"-DoutputDirectory={out}", "-Dmdep.useRepositoryLayout=true",
            ],
            check=True,
        )  # fmt: skip
        jars = sorted(out.rglob("*.jar"))
        return [f"{hashlib.sha256(jar.read_bytes()).hexdigest()} {jar.relative_to(out)}" for jar in jars]


def main() -> None:
    """Writes the lock."""
    lines = ["# Written by tools/lock_jars.py; engine, then SHA-256 and path below the repository's root."]
    for engine, coordinates in ENGINES.items():
        lines.append(f"[{engine}] {' '.join(coordinates)}")
        lines += resolve(coordinates)
    LOCK.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

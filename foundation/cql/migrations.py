"""Versioned migrations of a keyspace: numbered .cql files with checksums, applied once, by one process at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files

from foundation.cql.address import CqlAddress
from foundation.cql.session import Cql, Statement, open_cql
from foundation.errors import FailedPrecondition, Unavailable
from foundation.model.clock import Clock

LOCK_TTL_S = 120  # as in _LOCK
LOCK_WAIT_S = 60.0
_TABLES = (
    """CREATE TABLE IF NOT EXISTS schema_migrations (
         scope int, number int, name text, checksum text, applied_ms bigint, PRIMARY KEY ((scope), number))""",
    "CREATE TABLE IF NOT EXISTS schema_lock (scope int PRIMARY KEY, holder text)",
)
_APPLIED = Statement("SELECT number, name, checksum FROM schema_migrations WHERE scope = 0")
_NOTE = Statement("INSERT INTO schema_migrations (scope, number, name, checksum, applied_ms) VALUES (0, ?, ?, ?, ?)")
_LOCK = Statement("INSERT INTO schema_lock (scope, holder) VALUES (0, ?) IF NOT EXISTS USING TTL 120", idempotent=False)
_UNLOCK = Statement("DELETE FROM schema_lock WHERE scope = 0 IF holder = ?", idempotent=False)


class Standing(Enum):
    """How a migration stands to a keyspace."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed after it was applied"
    UNKNOWN = "of a newer version of feedmesh"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> list[str]:
        """The statements of the file, without comments; each ends with a semicolon at the end of a line."""
        lines = [line for line in self.text.splitlines() if not line.lstrip().startswith("--")]
        return [part.strip() for part in "\n".join(lines).split(";\n") if part.strip(" \n;")]


def migrations_of(package: str) -> list[Migration]:
    """The files NNNN_name.cql of *package*, after those that every keyspace has."""
    found = []
    for place, folder in enumerate((files("foundation.cql"), files(package).joinpath("cql"))):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".cql"):
                number, _, name = file.name.removesuffix(".cql").partition("_")
                found.append(Migration(int(number) + 1_000 * place, name, file.read_text(encoding="utf-8")))
    return found


async def standings(address: CqlAddress, migrations: Sequence[Migration]) -> list[tuple[Standing, int, str]]:
    """(standing, number, name) of every migration, known or not. Raises Unavailable."""
    async with open_cql(address, keyspace=False) as cluster:
        made = await cluster.schema(
            f"SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{address.keyspace}'"  # noqa: S608
        )
    if not made:
        return [(Standing.PENDING, one.number, one.name) for one in migrations]
    async with open_cql(address) as cql:
        await _tables(cql)
        return await _standings(cql, migrations)


@asynccontextmanager
async def open_keyspace(url: str, package: str) -> AsyncIterator[Cql]:
    """A session of the keyspace at *url*, which has the schema of *package*'s migrations.

    Raises FailedPrecondition(SCHEMA_PENDING, SCHEMA_NEWER, SCHEMA_CHANGED) where it has another one, ValueError where
    *url* is no address of a keyspace, and as open_cql.
    """
    address = CqlAddress.parse(url)
    async with open_cql(address) as cql:
        await _require_schema(cql, migrations_of(package), address.shown)
        yield cql


async def _require_schema(cql: Cql, migrations: Sequence[Migration], shown: str) -> None:
    try:
        found = await _standings(cql, migrations)
    except RuntimeError:
        found = [(Standing.PENDING, one.number, one.name) for one in migrations]
    for standing, reason, next_step in (
        (Standing.UNKNOWN, "SCHEMA_NEWER", "run the version of feedmesh that made it, or newer"),
        (Standing.CHANGED, "SCHEMA_CHANGED", "restore the migration's file; changes go into a new one"),
        (Standing.PENDING, "SCHEMA_PENDING", "feedmesh migrate up"),
    ):
        names = [f"{number:04}_{name}" for each, number, name in found if each is standing]
        if names:
            raise FailedPrecondition(reason, f"{shown}: {', '.join(names)} is {standing.value}: {next_step}")


async def migrate(address: CqlAddress, migrations: Sequence[Migration], clock: Clock, *, holder: str) -> list[str]:
    """Make the keyspace where it is missing and apply what is pending; names of what was applied.

    Raises Unavailable(SCHEMA_LOCKED) when another process migrates for longer than LOCK_WAIT_S, and as open_keyspace
    for a keyspace that is newer or was changed.
    """
    async with open_cql(address, keyspace=False) as cluster:
        await cluster.schema(
            f"CREATE KEYSPACE IF NOT EXISTS {address.keyspace} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', '{address.dc}': {address.replication}}}"
        )
    applied: list[str] = []
    async with open_cql(address) as cql:
        await _tables(cql)
        await _lock(cql, holder)
        try:
            found = await _standings(cql, migrations)
            if any(standing in (Standing.CHANGED, Standing.UNKNOWN) for standing, _, _ in found):
                await _require_schema(cql, migrations, address.shown)
            pending = {number for standing, number, _ in found if standing is Standing.PENDING}
            for one in migrations:
                if one.number in pending:
                    # Statements say IF NOT EXISTS: a migration that a crash cut short is simply applied again.
                    for statement in one.statements():
                        await cql.schema(statement)
                    await cql.execute(_NOTE, (one.number, one.name, one.checksum, clock.now_ms()))
                    applied.append(f"{one.number:04}_{one.name}")
        finally:
            await cql.execute(_UNLOCK, (holder,))
    return applied


async def _tables(cql: Cql) -> None:
    for text in _TABLES:
        await cql.schema(text)


async def _standings(cql: Cql, migrations: Sequence[Migration]) -> list[tuple[Standing, int, str]]:
    there = {number: (name, checksum) for number, name, checksum in await cql.execute(_APPLIED)}
    found = []
    for one in migrations:
        name, checksum = there.pop(one.number, (one.name, ""))
        standing = Standing.PENDING if not checksum else Standing.APPLIED
        if checksum and checksum != one.checksum:
            standing = Standing.CHANGED
        found.append((standing, one.number, name))
    return found + [(Standing.UNKNOWN, number, name) for number, (name, _) in sorted(there.items())]


async def _lock(cql: Cql, holder: str) -> None:
    try:
        async with asyncio.timeout(LOCK_WAIT_S):
            while not (await cql.execute(_LOCK, (holder,)))[0][0]:  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise Unavailable("SCHEMA_LOCKED", f"another process migrates; its lock ends after {LOCK_TTL_S} s") from None

"""Leases over SQL: a row for each number that was ever leased.

A server's own clock says when a lease ends, because the machines that ask it may disagree; a SQLite file is used from
one machine, whose clock it is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from foundation.leases.port import LEASE_S, REST_S, Holder
from foundation.model.clock import Clock
from foundation.sql.database import Database

_SERVER_MS = text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")


def worker_leases_table(metadata: MetaData) -> Table:
    """The table of who has which worker number, and until when."""
    return Table(
        "worker_leases",
        metadata,
        Column("worker", Integer, primary_key=True, autoincrement=False),
        Column("holder", String(200), nullable=False),
        Column("life", String(32), nullable=False),
        Column("until_ms", BigInteger, nullable=False),
    )


class SqlWorkerLeases:
    """foundation.leases.port.WorkerLeases over the table of worker_leases_table()."""

    def __init__(self, database: Database, leases: Table, clock: Clock) -> None:
        self._database = database
        self._leases = leases
        self._clock = clock

    async def take(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> str | None:
        leases = self._leases

        def work(connection: Connection) -> str | None:
            now_ms = self._now_ms(connection)
            row = {"holder": holder.name, "life": holder.life, "until_ms": now_ms + lease_s * 1_000}
            make: Any = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
            free = or_(leases.c.until_ms <= now_ms, leases.c.holder == holder.name)
            connection.execute(
                make(leases)
                .values(worker=node, **row)
                .on_conflict_do_update(index_elements=["worker"], set_=row, where=free)
            )
            has = connection.execute(select(leases.c.holder, leases.c.life).where(leases.c.worker == node)).one()
            return None if has.life == holder.life else str(has.holder)

        return await self._database.write(work)

    async def renew(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> bool:
        # A row never goes: one that ran out and still has our life was nobody else's in between.
        return await self._end_in(lease_s, node, holder)

    async def give_back(self, node: int, holder: Holder, *, rest_s: int = REST_S) -> None:
        await self._end_in(rest_s, node, holder)

    async def _end_in(self, seconds: int, node: int, holder: Holder) -> bool:
        ours = (self._leases.c.worker == node) & (self._leases.c.life == holder.life)

        def work(connection: Connection) -> bool:
            until_ms = self._now_ms(connection) + seconds * 1_000
            return connection.execute(update(self._leases).where(ours).values(until_ms=until_ms)).rowcount > 0

        return await self._database.write(work)

    def _now_ms(self, connection: Connection) -> int:
        if connection.dialect.name == "postgresql":
            return int(connection.execute(_SERVER_MS).scalar_one())
        return self._clock.now_ms()

"""Leases over CQL: a partition for each number, whose cells go when the lease ends.

Every write is a lightweight transaction, one in ten seconds from each process, each on a partition of its own. They are
updates and never inserts: an insert would leave a row marker that outlives cells with a shorter life.
"""

from __future__ import annotations

from foundation.cql.session import Cql, Statement
from foundation.leases.port import LEASE_S, REST_S, Holder

_TAKE_FREE = Statement(
    "UPDATE worker_leases USING TTL ? SET holder = ?, life = ? WHERE worker = ? IF life = null", idempotent=False
)
_TAKE_FROM = Statement(
    "UPDATE worker_leases USING TTL ? SET holder = ?, life = ? WHERE worker = ? IF life = ?", idempotent=False
)
_WHO = Statement("SELECT holder, life FROM worker_leases WHERE worker = ?")
_FASTER = "somebody who was faster"
_ROUNDED_S = 1
"""Cells go at a whole second, up to one before their time."""


class CqlWorkerLeases:
    """foundation.leases.port.WorkerLeases over the table worker_leases."""

    def __init__(self, cql: Cql) -> None:
        self._cql = cql

    async def take(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> str | None:
        if await self._take_free(node, holder, lease_s):
            return None
        rows = await self._cql.execute(_WHO, (node,))
        if not rows:  # the lease ended between the two questions
            return None if await self._take_free(node, holder, lease_s) else _FASTER
        name, life = rows[0]
        if name == holder.name and await self._take_from(life, node, holder, lease_s):
            return None
        return str(name)

    async def renew(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> bool:
        return await self._take_from(holder.life, node, holder, lease_s) or await self._take_free(node, holder, lease_s)

    async def give_back(self, node: int, holder: Holder, *, rest_s: int = REST_S) -> None:
        await self._take_from(holder.life, node, holder, rest_s)

    async def _take_free(self, node: int, holder: Holder, seconds: int) -> bool:
        rows = await self._cql.execute(_TAKE_FREE, (seconds + _ROUNDED_S, holder.name, holder.life, node))
        return bool(rows[0][0])

    async def _take_from(self, life: str, node: int, holder: Holder, seconds: int) -> bool:
        values = (seconds + _ROUNDED_S, holder.name, holder.life, node, life)
        rows = await self._cql.execute(_TAKE_FROM, values)
        return bool(rows[0][0])

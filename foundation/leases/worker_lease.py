"""Keeps the lease on a worker number, and lets ids be minted as long as it surely lasts.

Minting ends SAFETY_S before the lease may end in the store, counted from before the renewal was asked for: whatever the
answer took, the store counted from later on. When the store is away for longer, minting stops and goes on with the next
renewal. When somebody else has the number, this process ends: its publisher, its sweeper and its rows in flight all
rely on being the only one of that number, and a new process begins with a clean slate.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from foundation.errors import DomainError, Unavailable
from foundation.leases.holder import holding_a_name
from foundation.leases.port import LEASE_S, REST_S, Holder, WorkerLeases
from foundation.model.clock import Clock, Randomness
from foundation.model.ids import Snowflakes, node_of
from foundation.telemetry.logging import logger

SAFETY_S = 10
"""Within it a row is written whose id was minted in the lease's last moment: a write is given up after 5 s."""
RENEW_EVERY_S = LEASE_S / 3
RENEW_AGAIN_S = 1.0
"""After a renewal that failed."""
ATTEMPT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Which numbers a process may have, and what it is called."""

    service: str
    region: int
    workers: range
    """The first that is free is taken."""
    name: str
    """As holding_a_name takes it."""
    host: str
    port: int


class WorkerLease:
    """A worker number that this process has. Made by worker_lease()."""

    def __init__(self, leases: WorkerLeases, holder: Holder, ids: Snowflakes, clock: Clock) -> None:
        self._leases = leases
        self._holder = holder
        self._clock = clock
        self.ids = ids
        """Mints with the number, while the lease lasts."""
        self.when_interrupted: Callable[[], None] = lambda: None
        """Called before minting goes on after a pause in which somebody else may have had the number."""

    async def renew(self) -> bool:
        """Whether it worked; where not, minting goes on until the lease ends. Raises Unavailable(ID_LEASE_LOST)."""
        asked_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_S):
                ours = await self._leases.renew(self.ids.node, self._holder)
        except (DomainError, TimeoutError) as failure:
            left_s = round(self.ids.until_s - asked_s, 1)
            logger.warning("lease_not_renewed", worker=self.ids.node, minting_for_s=left_s, reason=_reason(failure))
            return False
        if not ours:
            self.ids.until_s = -math.inf
            raise Unavailable(
                "ID_LEASE_LOST", f"another process has worker {self.ids.node} of {self._holder.name}: start again"
            )
        if self._clock.monotonic() >= self.ids.until_s:
            logger.warning("lease_interrupted", worker=self.ids.node)
            self.when_interrupted()
        self.ids.until_s = asked_s + LEASE_S - SAFETY_S
        return True

    async def renew_forever(self) -> None:
        """Until cancelled. Raises as renew."""
        renewed = True
        while True:
            await asyncio.sleep(RENEW_EVERY_S if renewed else RENEW_AGAIN_S)
            renewed = await self.renew()

    async def give_back(self) -> None:
        """Nothing is minted from here on, and others may have the number soon."""
        self.ids.until_s = -math.inf
        with suppress(DomainError, TimeoutError):  # then it ends by itself
            async with asyncio.timeout(ATTEMPT_S):
                await self._leases.give_back(self.ids.node, self._holder)


@asynccontextmanager
async def worker_lease(
    leases: WorkerLeases, claim: Claim, clock: Clock, randomness: Randomness
) -> AsyncIterator[WorkerLease]:
    """A number of *claim*, renewed by a task of its own until the end, where it is given back.

    Raises Unavailable: WORKERS_TAKEN when others have them all, ALREADY_RUNNING as holding_a_name, and what the store
    raises. When the number is lost, the body is cancelled and Unavailable(ID_LEASE_LOST) comes out.
    """
    with holding_a_name(
        claim.service, name=claim.name, host=claim.host, port=claim.port, randomness=randomness
    ) as holder:
        lease = await take_lease(leases, claim, holder, clock)
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(lease.renew_forever(), name="lease-renewer")
                try:
                    yield lease
                finally:
                    renewing.cancel()
        except BaseExceptionGroup as failures:
            # Of the renewer, whose failure cancelled the body; otherwise the body's own. Never both wrapped for others.
            failure = failures.exceptions[0]
        finally:
            await lease.give_back()
        if failure is not None:
            raise failure


async def take_lease(leases: WorkerLeases, claim: Claim, holder: Holder, clock: Clock) -> WorkerLease:
    """The lease on the first number of *claim* that is free. Raises as worker_lease."""
    taken: Sequence[str] = ()
    for wait_s in (0.0, float(REST_S)):
        # A number that was given back a moment ago is nobody's after its rest.
        await asyncio.sleep(wait_s)
        taken = []
        for worker in claim.workers:
            node = node_of(claim.region, worker)
            asked_s = clock.monotonic()
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    who = await leases.take(node, holder)
            except TimeoutError:
                raise Unavailable("STORE_UNAVAILABLE", f"the store leases no number within {ATTEMPT_S:g} s") from None
            if who is None:
                until_s = asked_s + LEASE_S - SAFETY_S
                ids = Snowflakes(clock, region=claim.region, worker=worker, until_s=until_s)
                logger.info("lease_taken", worker=node, holder=holder.name)
                return WorkerLease(leases, holder, ids, clock)
            taken.append(f"{worker}: {who}")
    first, last = claim.workers[0], claim.workers[-1]
    shown = ", ".join(taken[:5]) + (f" and {len(taken) - 5} more" if len(taken) > 5 else "")
    raise Unavailable(
        "WORKERS_TAKEN",
        f"every worker number that {claim.service} may have, {first} to {last}, is taken ({shown}). A process that was "
        f"killed keeps its number for {LEASE_S} s: start again then. If they all run, raise FEEDMESH_WORKERS, or give "
        "this process another FEEDMESH_WORKER",
    )


def _reason(failure: Exception) -> str:
    return failure.reason if isinstance(failure, DomainError) else "TIMEOUT"

"""Worker numbers on lease: of all processes that mint ids over one store, no two have the same number at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LEASE_S = 30
"""How long a lease lasts in the store, from the moment it takes or renews it."""
REST_S = 2
"""How long a number that was given back is kept from everybody else. Ids may be ahead of their minter's clock by a
second (Snowflakes.MAX_AHEAD_MS), and clocks of machines are taken to agree within the other one."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One life of a process that mints ids."""

    name: str
    """Nobody else has it: when two lives have the same name, the one before has ended."""
    life: str
    """No other life has it, not even of the same name."""


class WorkerLeases(Protocol):
    """The leases on the worker numbers of one store. A node is region and number as `worker_of` tells them.

    Each call is atomic and may be repeated; when its outcome is unknown, it may have taken effect. All raise
    Unavailable, DeadlineExceeded or Exhausted.
    """

    async def take(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> str | None:
        """Lease *node* to *holder* for at least *lease_s* from now, and at most two seconds more.

        Succeeds (None) when nobody has it, or when a holder of the same name has: that one has lost it from here on.
        Otherwise the name of who has it.
        """
        ...

    async def renew(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> bool:
        """Make the lease last as if it were taken now, also where it has run out and nobody else has the number.

        False when somebody has it who is not this life. Where it is True after the lease had run out, somebody else
        may have had the number in between.
        """
        ...

    async def give_back(self, node: int, holder: Holder, *, rest_s: int = REST_S) -> None:
        """End the lease after *rest_s* as take counts, for a holder of the same name at once; nothing if it is lost."""
        ...

"""The contract of timelines; tests/contract/test_timelines.py runs it over every adapter and mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Unavailable

Owners = NDArray[np.int64]

CAPACITY = 500
"""Ids a timeline keeps at least; a reader uses at most this many."""
SLACK = 16
"""Ids above CAPACITY at which a push trims back to CAPACITY."""
TTL_S = 7 * 86_400
"""Life of a timeline since it was last read."""
ABSENT_AFTER_S = 86_400
"""A timeline that was not read for so long belongs to somebody who is absent."""
BUILDING_TTL_S = 10
"""Life of a begun rebuild."""


@dataclass(slots=True, frozen=True)
class Timeline:
    """One timeline as read: every id of its sources above *floor*."""

    ids: Sequence[int]
    """Strictly descending, at most CAPACITY, all > floor."""
    floor: int


class Pushed(IntEnum):
    """What a push did to one timeline."""

    COLD = 0
    """There is no timeline: nothing was done, a reader will build it."""
    DONE = 1
    """The id is in, or was already, or is at or below the floor."""
    FAILED = 2
    """The node did not answer: retry this owner alone."""


@dataclass(slots=True, frozen=True)
class Share:
    """One post and the owners whose timelines are to hold it."""

    post_id: int
    owners: Owners
    """Positive."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Delivered:
    """What became of shares."""

    failed: Sequence[int]
    """For each share, how many of its owners' nodes did not take it: repeat the share."""
    cold: int = 0
    """Owners without a timeline: nothing was done, a reader will build it."""
    unlinked: int = 0
    """Owners who are absent and whose timelines were therefore forgotten."""


class Timelines(Protocol):
    """Timelines of one family (`feed:{u}` or `author_posts:{a}`), by owner."""

    async def read(self, owners: Sequence[int]) -> Mapping[int, Timeline]:
        """The timelines that exist and are not being rebuilt; a cold owner has no entry.

        Reading refreshes the TTL of owners that are read one by one. Raises Unavailable if a node does not answer.
        """
        ...

    async def read_below(
        self, owners: Sequence[int], *, before_id: int, limit: int
    ) -> Mapping[int, Timeline | Unavailable | None]:
        """The greatest ids of each owner's timeline below *before_id*, at most *limit*; what lies above is not read.

        An entry for every owner: its timeline, complete between its floor and *before_id*; None for a cold one;
        Unavailable where the node did not answer. A floor of *before_id* - 1 or more says that nothing is known below.
        """
        ...

    async def push(self, owners: Sequence[int], post_id: int) -> Mapping[int, Pushed]:
        """Insert *post_id* into each owner's timeline; see rule 1. Idempotent. Never raises for a dead node: FAILED."""
        ...

    async def push_each(self, pairs: Sequence[tuple[int, int]]) -> Sequence[Pushed]:
        """Insert (owner, post_id) pairs, in order, one script call per node; results in the order of *pairs*."""
        ...

    async def deliver(self, shares: Sequence[Share], *, present_only: bool = False) -> Delivered:
        """Insert each share's post into its owners' timelines: what push_each does, at a fraction of its cost.

        *present_only*: timelines that nobody has read for ABSENT_AFTER_S are unlinked instead (rule 2: skipping is
        unlinking). Idempotent. Never raises for a dead node.
        """
        ...

    async def begin(self, owner: int, token: str, floor: int) -> bool:
        """Start a rebuild of an absent timeline: from here pushes above *floor* land; readers still see it as cold.

        False if it exists or is being rebuilt by someone else. *token* is 1-32 letters and digits.
        """
        ...

    async def commit(self, owner: int, token: str, ids: Sequence[int], floor: int) -> bool:
        """End a rebuild: merge *ids* (any order) with what was pushed since, keep the newest CAPACITY, set the floor.

        *floor* is the greatest id below which *ids* may lack something: at least the floor given to begin.
        False, and nothing changed, unless the rebuild of *token* is still going on.
        """
        ...

    async def unlink(self, owners: Sequence[int]) -> None:
        """Forget timelines; they are cold from here on."""
        ...


@dataclass(slots=True, frozen=True)
class Gap:
    """Ids that may be missing in any `feed:{u}` although they are above its floor: from_id to to_id, both included."""

    from_id: int
    to_id: int
    state: int = field(default=0, compare=False)
    """Another number as soon as more posts of it were recorded: what was put into a timeline before is not all."""


class Gaps(Protocol):
    """What was left to readers while the fan-out could not keep up (rule 2).

    A read whose timeline spans a gap (its floor is below to_id) is complete only together with the ids of its
    followees' `author_posts` within the gap; it pushes what it finds into the timeline, which then holds it. That is
    right for any timeline at any time, so whoever does not know whether one was mended does it again; a timeline whose
    rebuild began after the gap's last post needs nothing. Gaps change by the second while they grow: a process may keep
    what it read for 1 s, which delays a post by as much.
    """

    async def record(self, post_ids: Sequence[int]) -> None:
        """These posts are in no feed but by chance; idempotent, in any order. Raises Unavailable: they must wait."""
        ...

    async def read(self) -> Sequence[Gap]:
        """The gaps of the last 7 days, newest first, apart from each other. Raises Unavailable."""
        ...

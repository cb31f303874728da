"""Marks on follows over Cassandra or ScyllaDB: what a follow tells of its author's tier, and since when that was so."""

from __future__ import annotations

from foundation.cql.session import Statement
from foundation.model.tiers import Tier
from graph_svc.model import mark_of

_MARK_BITS = 3

SET_MARK = Statement("UPDATE following USING TIMESTAMP ? SET pulled = ? WHERE follower_id = ? AND followee_id = ?")
"""Always at the time of the follow: it ends with it, and of two marks the greater stands."""


def mark_value(tier: Tier, since_ms: int) -> int:
    """The value of `pulled`; greater for a later tier."""
    return since_ms << _MARK_BITS | mark_of(tier)


def mark_in(value: int) -> int:
    """What it tells: 0, PULL or SUPER."""
    return value & (1 << _MARK_BITS) - 1

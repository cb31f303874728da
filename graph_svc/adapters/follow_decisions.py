"""Which follows can be made and ended: the same answer whatever the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from graph_svc.model import FollowChange, FollowOutcome

Pair = tuple[int, int]
"""(follower, followee), or (blocker, blocked)."""


def decide_follows(
    changes: Sequence[FollowChange],
    *,
    active: Mapping[int, int],
    blocked: Collection[Pair],
    existing: Collection[Pair],
    limit: int,
) -> tuple[list[FollowOutcome], list[FollowChange]]:
    """Outcomes in the order asked, and the follows to make; *active* tells how many each active user follows."""
    follows = set(existing)
    added: Counter[int] = Counter()
    outcomes = []
    made = []
    for change in changes:
        follower_id, followee_id = pair = (change.follower_id, change.followee_id)
        if follower_id not in active or followee_id not in active:
            outcome = FollowOutcome.NO_SUCH_USER
        elif (followee_id, follower_id) in blocked:
            outcome = FollowOutcome.BLOCKED_BY_THEM
        elif pair in blocked:
            outcome = FollowOutcome.BLOCKING_THEM
        elif pair in follows:
            outcome = FollowOutcome.UNCHANGED
        elif active[follower_id] + added[follower_id] >= limit:
            outcome = FollowOutcome.LIMIT_REACHED
        else:
            outcome = FollowOutcome.CHANGED
            follows.add(pair)
            added[follower_id] += 1
            made.append(change)
        outcomes.append(outcome)
    return outcomes, made


def decide_unfollows(
    changes: Sequence[FollowChange], *, active: Collection[int], existing: Collection[Pair]
) -> tuple[list[FollowOutcome], list[FollowChange]]:
    """Outcomes in the order asked, and the follows to end."""
    follows = set(existing)
    outcomes = []
    ended = []
    for change in changes:
        pair = (change.follower_id, change.followee_id)
        if pair in follows:
            follows.discard(pair)
            ended.append(change)
            outcomes.append(FollowOutcome.CHANGED)
        else:
            outcomes.append(FollowOutcome.UNCHANGED if pair[1] in active else FollowOutcome.NO_SUCH_USER)
    return outcomes, ended

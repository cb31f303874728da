"""How an author moves between tiers: one pure decision, made again whenever the count or the time has moved.

    PUSH ──▶ BOTH up ──▶ PULL ◀──▶ SUPER
      ▲        │          │ ▲
      └─ down ◀┴ BOTH down◀─┘      each border is crossed upwards at its value, downwards below 90 % of it

Readers find a pulled author's posts by the mark on their follow, so an author may only be pulled alone while every
follower has one: BOTH up ends when a job has marked them all. From then until PUSH the marks stay, so that BOTH down
can go back at once; PUSH with the crossing DOWN is where they are taken away.
"""

from __future__ import annotations

from foundation.model.tiers import Tier
from graph_svc.model import Borders, Crossing, Standing, Step

BOTH_UP = Step(Tier.BOTH, Crossing.UP)
BOTH_DOWN = Step(Tier.BOTH, Crossing.DOWN)


def next_step(standing: Standing, *, marked: bool, now_ms: int, borders: Borders) -> Step | None:
    """What the author becomes now, one step at a time; None: stays.

    *marked*: since the standing is what it is, every follower's mark was brought to its tier and told to readers.
    """
    count = standing.follower_count
    step: Step | None = None
    match standing.tier:
        case Tier.PUSH:
            step = BOTH_UP if count >= borders.pull_from else None
        case Tier.BOTH if standing.crossing is Crossing.UP:
            step = _from_both_up(count, marked, borders)
        case Tier.BOTH:
            step = _from_both_down(count, now_ms - standing.since_ms, borders)
        case Tier.PULL:
            step = _from_pull(count, standing.crossing, borders)
        case Tier.SUPER:
            step = Step(Tier.PULL, Crossing.DOWN) if _is_below(count, borders.super_from) else None
    if step is None and marked and needs_marks(standing):
        return Step(standing.tier, None)
    return step


def _from_both_up(count: int, marked: bool, borders: Borders) -> Step | None:  # noqa: FBT001 - of next_step only
    if _is_below(count, borders.pull_from):
        # No post was left to readers alone yet: unlike in BOTH down, there is nothing to wait for.
        return Step(Tier.PUSH, Crossing.DOWN)
    return Step(Tier.PULL, None) if marked else None


def _from_both_down(count: int, for_ms: int, borders: Borders) -> Step | None:
    if count >= borders.pull_from:
        return Step(Tier.PULL, None)
    return Step(Tier.PUSH, Crossing.DOWN) if for_ms >= borders.down_for_ms else None


def _from_pull(count: int, crossing: Crossing | None, borders: Borders) -> Step | None:
    if count >= borders.super_from:
        return Step(Tier.SUPER, Crossing.UP)
    # Marks of SUPER are set back before: BOTH down goes back to PULL without a look at the marks.
    return BOTH_DOWN if crossing is None and _is_below(count, borders.pull_from) else None


def needs_marks(standing: Standing) -> bool:
    """Whether followers' marks may not tell the tier yet."""
    return standing.crossing is not None and (standing.tier, standing.crossing) != (Tier.BOTH, Crossing.DOWN)


def _is_below(count: int, border: int) -> bool:
    """Below 90 % of the border: a count that swings around it does not make the author swing."""
    return count * 10 < border * 9

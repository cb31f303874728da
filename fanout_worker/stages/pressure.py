"""From how far the fan-out is behind to what it does about it. Levels are left at half of what they are entered at."""

from __future__ import annotations

from fanout_worker.model import Lag, Level

ENTERED_ABOVE = {
    Level.SCALE_OUT: Lag(10.0, 100_000),
    Level.PRESENT_ONLY: Lag(60.0, 500_000),
    Level.PULL_ALL: Lag(300.0, 1_000_000),
}
"""Either measure is enough."""


def next_level(level: Level, lag: Lag) -> Level:
    """The level after *level*: the highest one that is entered, or the one that is not to be left yet."""
    for higher in reversed(Level):
        if higher is Level.NORMAL:
            break
        above = ENTERED_ABOVE[higher]
        part = 0.5 if higher <= level else 1.0
        if lag.seconds > above.seconds * part or lag.deliveries > above.deliveries * part:
            return higher
    return Level.NORMAL

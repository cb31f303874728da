"""Where a feed goes on after an anchor."""

from __future__ import annotations

import pytest

from feed_svc.flows.save_position import SavePosition
from feed_svc.model import Mode, Position, SavedPosition, Session
from feed_svc.stages.resuming import after_anchor
from foundation.model.clock import Millis

NEWER, OLDER = Session(2, 90, [40, 90, 70]), Session(1, 60, [30, 60, 50])


@pytest.mark.parametrize(
    ("mode", "anchor", "sessions", "expected"),
    [
        (Mode.LATEST, 40, [NEWER], Position(Mode.LATEST, before_id=40)),
        (Mode.RANKED, 40, [NEWER, OLDER], Position(Mode.RANKED, 2, 1, 90)),
        (Mode.RANKED, 30, [NEWER, OLDER], Position(Mode.RANKED, 1, 1, 60)),
        (Mode.RANKED, 70, [NEWER, OLDER], Position(Mode.RANKED, 2, 0, 90, 91)),
        (Mode.RANKED, 20, [NEWER, OLDER], Position(Mode.RANKED, 2, 0, 90, 20)),
        (Mode.RANKED, 95, [NEWER], Position(Mode.RANKED, freeze_id=95, before_id=95)),
        (Mode.RANKED, 40, [], Position(Mode.RANKED, freeze_id=40, before_id=40)),
    ],
)
def test_the_table(mode: Mode, anchor: int, sessions: list[Session], expected: Position) -> None:
    assert after_anchor(SavedPosition(mode, anchor, 1), sessions) == expected


class At:
    """A clock that stands still."""

    def now_ms(self) -> Millis:
        return Millis(1_000)

    def monotonic(self) -> float:
        return 1.0


class Kept:
    """Positions that keep everything: the rule of the latest is the stores'."""

    async def save(self, _: int, position: SavedPosition) -> SavedPosition:
        return position

    async def of(self, _: int) -> SavedPosition | None:
        return None


@pytest.mark.parametrize(("told", "kept"), [(0, 1_000), (-5, 1_000), (900, 900), (5_000, 1_000)])
async def test_a_clock_that_runs_ahead_is_not_believed(told: int, kept: int) -> None:
    save = SavePosition(positions=Kept(), clock=At())
    assert (await save(1, Mode.RANKED, 7, saved_ms=told)).saved_ms == kept

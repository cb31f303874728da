"""Sources fail alone: a page without one says why, and is there in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Degraded, Found
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.telemetry.journal import Journal
from foundation.viewers import ViewerRecord
from foundation.visibility import UserState

VIEWER = ViewerRecord(1, UserState.ACTIVE, frozenset({7}), frozenset(), frozenset())
HOME = OpenedHome(VIEWER, [90, 70], 10, 5, True, frozenset())


@dataclass
class Source:
    """Answers, fails or hangs."""

    answer: Found | Exception | None
    name: str = "pulled"
    timeout_s: float = 0.01
    reason: Degraded = Degraded.FEED_PARTIAL
    asked: bool = True

    def wanted(self, home: OpenedHome) -> bool:
        return self.asked and home is HOME

    async def find(self, home: OpenedHome) -> Found:
        assert home is HOME
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


async def gathered(*sources: Source) -> tuple[list[int], frozenset[Degraded], Journal]:
    journal = Journal(SystemClock())
    candidates = await GatherCandidates(sources=sources)(HOME, journal)
    return list(candidates.ids), candidates.reasons, journal


async def test_what_sources_find_is_folded_into_the_list() -> None:
    ids, reasons, journal = await gathered(Source(Found((80, 70), whole=True)), Source(Found((95,), whole=True)))
    assert (ids, reasons) == ([95, 90, 80, 70], frozenset())
    assert [(stage.name, stage.count) for stage in journal.stages] == [("pulled", 2), ("pulled", 1)]


@pytest.mark.parametrize("answer", [None, Unavailable("UNAVAILABLE"), Found((80,), whole=False)])
async def test_a_source_that_fails_leaves_the_others_and_its_reason(answer: Found | Exception | None) -> None:
    ids, reasons, _ = await gathered(Source(answer), Source(Found((95,), whole=True)))
    assert ids == [95, 90, *([80] if isinstance(answer, Found) else []), 70]
    assert reasons == {Degraded.FEED_PARTIAL}


async def test_a_source_that_a_viewer_has_no_use_for_is_not_asked() -> None:
    ids, reasons, journal = await gathered(Source(Unavailable("UNAVAILABLE"), asked=False))
    assert (ids, reasons, journal.stages) == ([90, 70], frozenset(), [])


async def test_a_journal_tells_times_counts_and_reasons() -> None:
    journal = Journal(SystemClock())
    with journal.stage("slate") as stage:
        stage.count, stage.dropped = 20, {"hidden": 2}
    assert journal.server_timing().startswith("slate;dur=0.0")
    assert journal.server_timing().endswith(';desc="20 -2 hidden"')
    journal.publish()

"""The order of a RANKED head: what a session freezes, and what explanations tell about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import HEAD_CAPACITY, Candidates, Degraded, Ranked
from feed_svc.ports import Ranker, Shelf
from feed_svc.stages.arrangement import compose
from feed_svc.stages.candidates import without_known
from feed_svc.stages.seen import unseen_first, worth_ranking
from foundation.errors import DomainError
from foundation.telemetry.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeHead:
    """Rank → unseen before seen → nobody known among the recommended → arranged by windows (rule 7)."""

    ranker: Ranker
    shelf: Shelf

    async def __call__(
        self, viewer_id: int, home: OpenedHome, candidates: Candidates, journal: Journal
    ) -> tuple[Ranked, frozenset[Degraded]]:
        """At most HEAD_CAPACITY of *candidates*, and why it is less than perfect; of the newest where ranking fails."""
        ranked, reasons = await self._rank(viewer_id, candidates.together(), home, journal)
        return composed(ranked, viewer_id, home, candidates, journal), reasons | candidates.reasons

    async def _rank(
        self, viewer_id: int, all_ids: Sequence[int], home: OpenedHome, journal: Journal
    ) -> tuple[Ranked, frozenset[Degraded]]:
        ids = worth_ranking(all_ids, home.seen)
        reasons = frozenset[Degraded]()
        with journal.stage("rank") as stage:
            try:
                ranked = await self.ranker.rank(viewer_id, ids)
                if not ranked.features_whole:
                    reasons = frozenset({Degraded.FEATURES_UNAVAILABLE})
            except DomainError:
                newest = ids[:HEAD_CAPACITY]
                ranked = Ranked(newest, await self.shelf.authors_of(newest))
                reasons = frozenset({Degraded.RANK_FALLBACK})
            stage.count = len(ranked.ids)
            if len(all_ids) > stage.count:
                stage.dropped = {"quick_score": len(ids) - stage.count, "seen": len(all_ids) - len(ids)}
        return ranked, reasons


def composed(ranked: Ranked, viewer_id: int, home: OpenedHome, candidates: Candidates, journal: Journal) -> Ranked:
    """The head that *ranked* candidates make."""
    viewer, recommended = home.viewer, candidates.recommended
    with journal.stage("compose") as stage:
        chosen = without_known(unseen_first(ranked, home.seen), recommended, viewer_id=viewer_id, viewer=viewer)
        head = compose(chosen, pulled=viewer.pulled, recommended=recommended)
        stage.count = len(head.ids)
        if len(ranked.ids) > stage.count:
            stage.dropped = {"followed": len(ranked.ids) - stage.count}
    return head

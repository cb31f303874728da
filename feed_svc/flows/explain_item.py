"""Why a post is where it is in a viewer's RANKED feed: the same stages as a first page, one post watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feed_svc.flows.gather_candidates import GatherCandidates
from feed_svc.flows.get_feed import GetFeed
from feed_svc.flows.make_head import composed
from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Candidates, Explanation, FeedQuery, Kind, Mode, Place, Ranked, Scores
from feed_svc.ports import Ranker, Shelf
from feed_svc.stages.decision import decision
from feed_svc.stages.seen import worth_ranking
from foundation.errors import DomainError, NotFound, Unavailable
from foundation.model.clock import Clock
from foundation.telemetry.journal import Journal
from foundation.visibility import EdgeState, Surface, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainItem:
    """Freezes nothing and marks nothing."""

    get_feed: GetFeed
    gather_candidates: GatherCandidates
    ranker: Ranker
    shelf: Shelf
    clock: Clock

    async def __call__(self, viewer_id: int, post_id: int) -> Explanation:
        """Raises NotFound(POST_NOT_FOUND) for a post that the viewer may not see at all, and what GetFeed raises."""
        journal = Journal(self.clock)
        home = await self.get_feed.home(FeedQuery(viewer_id, 1, Mode.RANKED, None), journal)
        records = await self.shelf.fetch([post_id])
        card = records.cards.get(post_id)
        author = records.authors.get(card.author_id) if card is not None else None
        if card is None or author is None:
            if not records.whole:
                raise Unavailable("FEED_UNAVAILABLE", "the post cannot be read now", post_id=post_id)
            raise NotFound("POST_NOT_FOUND", "no such post", post_id=post_id)
        edge = home.viewer.edge(card.author_id)
        if not visible(viewer_id, author.facts, card.state, edge, Surface.DIRECT):
            raise NotFound("POST_NOT_FOUND", "no such post", post_id=post_id)
        candidates = await self.gather_candidates(home, journal)
        known = card.author_id == viewer_id or edge.follow is EdgeState.FOLLOWING
        recommended = post_id in candidates.recommended and not known
        shown, words = decision(viewer_id, author.facts, card.state, edge, recommended=recommended)
        order, scores = await self._order(viewer_id, home, candidates, post_id, journal)
        kind = _kind(viewer_id, card.author_id, home)
        if kind is None and recommended:
            kind = Kind.RECOMMENDED
        slot = order.index(post_id) + 1 if shown and post_id in order else 0
        if slot:
            place = Place.HEAD
        elif not shown:
            place = Place.NOT_IN_FEED
        elif post_id <= home.oldest_id:
            place, words = Place.NOT_IN_FEED, "hidden: it is older than a feed goes back"
            shown = False
        elif kind is Kind.RECOMMENDED:
            place, words = Place.NOT_IN_FEED, "hidden: recommended, but others rank before it"
            shown = False
        else:
            place = Place.TAIL
        return Explanation(post_id, kind, place, slot, words, shown, scores, journal)

    async def _order(
        self, viewer_id: int, home: OpenedHome, candidates: Candidates, post_id: int, journal: Journal
    ) -> tuple[Sequence[int], Scores | None]:
        """The order of a head made now, and how the post fared; scored alone where it is no candidate."""
        ids = worth_ranking(candidates.together(), home.seen)
        watched = post_id in ids
        try:
            with journal.stage("rank") as stage:
                if watched:
                    ranked, scores = await self.ranker.explain(viewer_id, ids, post_id)
                else:
                    ranked = await self.ranker.rank(viewer_id, ids) if ids else Ranked((), ())
                    scores = (await self.ranker.explain(viewer_id, [post_id], post_id))[1]
                stage.count = len(ranked.ids)
        except DomainError:
            return (), None
        order = composed(ranked, viewer_id, home, candidates, journal).ids
        return order, scores if watched else replace(scores, quick_place=0, model_place=0)


def _kind(viewer_id: int, author_id: int, home: OpenedHome) -> Kind | None:
    if author_id == viewer_id:
        return Kind.OWN
    if author_id in home.viewer.pulled:
        return Kind.PULLED
    return Kind.PUSHED if author_id in home.viewer.follows else None

"""Candidates of one viewer, best first: features, quick score down to the limit, model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.errors import Internal
from foundation.model.clock import Clock
from rank_svc.model import KEPT, Ranked, RankQuery
from rank_svc.ports import Features, Scorer
from rank_svc.stages.feature_matrix import age_hours, feature_matrix
from rank_svc.stages.quick_score import best, quick_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCandidates:
    """Stage 1 and stage 2 of seed section 7."""

    features: Features
    scorer: Scorer
    clock: Clock

    async def __call__(self, query: RankQuery) -> Ranked:
        """Raises Internal(MODEL_FAILED) when the model raises or its scores are not finite."""
        ids = query.candidate_ids
        now_ms = self.clock.now_ms()
        rows = await self.features.rows(ids)
        ages = age_hours(ids, now_ms)
        kept = best(quick_scores(rows.values, ages), ids, query.limit or KEPT)
        matrix = feature_matrix(
            rows.values[kept],
            ages[kept],
            now_ms=now_ms,
            session_length_s=query.session_length_s,
            posts_seen=query.posts_seen,
        )
        scores = await self.scorer.score(matrix)
        if scores.shape != (len(kept),) or not np.isfinite(scores).all():
            raise Internal("MODEL_FAILED", "the model's scores are no numbers", model=self.scorer.version)
        order = best(scores, ids[kept], len(kept))
        chosen = kept[order]
        return Ranked(ids[chosen], rows.author_ids[chosen], scores[order], self.scorer.version)

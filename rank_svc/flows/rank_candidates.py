"""Candidates of one viewer, best first: features, quick score down to the limit, model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Internal
from foundation.model.clock import Clock
from rank_svc.model import KEPT, Explained, Matrix, Ranked, RankQuery
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
        quick = quick_scores(rows.values, ages)
        kept = best(quick, ids, query.limit or KEPT)
        scores = await self._score(query, rows.values.take(kept, axis=0), ages.take(kept), now_ms)
        order = best(scores, ids.take(kept), len(kept))
        chosen = kept.take(order)
        version = self.scorer.version
        explained = None
        if query.explain_id and query.explain_id in ids:
            explained = await self._explain(query, rows.values, ages, now_ms, quick, chosen)
        return Ranked(
            ids.take(chosen), chosen, rows.author_ids.take(chosen), scores.take(order), version, explained, rows.whole
        )

    async def _score(
        self, query: RankQuery, values: Matrix, ages: NDArray[np.float32], now_ms: int
    ) -> NDArray[np.float32]:
        scores = await self.scorer.score(_matrix(query, values, ages, now_ms))
        if scores.shape != (len(values),) or not np.isfinite(scores).all():
            raise Internal("MODEL_FAILED", "the model's scores are no numbers", model=self.scorer.version)
        return scores

    async def _explain(
        self,
        query: RankQuery,
        values: Matrix,
        ages: NDArray[np.float32],
        now_ms: int,
        quick: NDArray[np.float32],
        chosen: NDArray[np.intp],
    ) -> Explained:
        ids = query.candidate_ids
        (at, *_) = np.flatnonzero(ids == query.explain_id).tolist()
        one = slice(at, at + 1)
        (score,) = (await self._score(query, values[one], ages[one], now_ms)).tolist()
        quick_place = np.flatnonzero(best(quick, ids, len(ids)) == at)[0] + 1
        model_place = np.flatnonzero(chosen == at)
        return Explained(
            quick_score=float(quick[at]),
            quick_place=int(quick_place),
            model_score=score,
            model_place=int(model_place[0]) + 1 if len(model_place) else 0,
            features=_matrix(query, values[one], ages[one], now_ms)[0],
        )


def _matrix(query: RankQuery, values: Matrix, ages: NDArray[np.float32], now_ms: int) -> Matrix:
    return feature_matrix(
        values, ages, now_ms=now_ms, session_length_s=query.session_length_s, posts_seen=query.posts_seen
    )

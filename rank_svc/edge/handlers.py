"""RankService: packed ids in, packed ids out."""

from __future__ import annotations

import numpy as np
from feedmesh.rank.v1 import rank_service_pb2 as pb

from foundation.errors import InvalidArgument
from foundation.features import FEATURES
from foundation.rpc.server import Call
from rank_svc.flows.rank_candidates import RankCandidates
from rank_svc.flows.recommend_soon import RecommendSoon
from rank_svc.model import KEPT, MAX_CANDIDATES, Explained, RankQuery


class RankHandlers:
    """The handlers of RankService."""

    def __init__(self, rank_candidates: RankCandidates, recommend_soon: RecommendSoon | None) -> None:
        self._rank_candidates = rank_candidates
        self._recommend_soon = recommend_soon

    async def RequestRecommendations(
        self, request: pb.RequestRecommendationsRequest, _: Call
    ) -> pb.RequestRecommendationsResponse:
        accepted = self._recommend_soon is not None and self._recommend_soon(request.user_id)
        return pb.RequestRecommendationsResponse(accepted=accepted)

    async def RankCandidates(self, request: pb.RankCandidatesRequest, _: Call) -> pb.RankCandidatesResponse:
        packed = request.candidate_ids
        count = len(packed) // 8
        if len(packed) % 8 or count > MAX_CANDIDATES or len(request.sources) not in (0, count):
            raise InvalidArgument("FIELD_INVALID", "candidate_ids and sources must match, at most 1,000")
        query = RankQuery(
            request.user_id,
            np.frombuffer(packed, dtype="<i8"),
            request.limit or KEPT,
            request.session_length_s,
            request.posts_seen,
            request.explain_id,
        )
        ranked = await self._rank_candidates(query)
        return pb.RankCandidatesResponse(
            post_ids=ranked.post_ids.astype("<i8", copy=False).tobytes(),
            places=ranked.places.astype("<u2").tobytes(),
            author_ids=ranked.author_ids.astype("<i8", copy=False).tobytes(),
            scores=ranked.scores.astype("<f4", copy=False).tobytes(),
            model_version=ranked.model_version,
            explanation=_explanation(ranked.explained) if ranked.explained else None,
            features_unavailable=not ranked.features_whole,
        )


def _explanation(explained: Explained) -> pb.CandidateExplanation:
    return pb.CandidateExplanation(
        quick_score=explained.quick_score,
        quick_place=explained.quick_place,
        model_score=explained.model_score,
        model_place=explained.model_place,
        features=[
            pb.FeatureValue(name=name, value=value)
            for name, value in zip(FEATURES, explained.features.tolist(), strict=True)
        ],
    )

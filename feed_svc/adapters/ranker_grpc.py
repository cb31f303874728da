"""Ranker over rank_svc: the one gRPC hop of the hot path, packed ids in and out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from feedmesh.rank.v1 import rank_service_pb2 as pb
from google.protobuf.message import DecodeError

from feed_svc.model import HEAD_CAPACITY, Ranked, Scores
from foundation.errors import Internal
from foundation.rpc.unary import UnaryChannel

Places = npt.NDArray[np.uint16]

RANK_CANDIDATES = "/feedmesh.rank.v1.RankService/RankCandidates"


class GrpcRanker:
    """feed_svc.ports.Ranker."""

    def __init__(self, channel: UnaryChannel, *, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    async def rank(self, viewer_id: int, candidate_ids: Sequence[int]) -> Ranked:
        ranked, _ = await self._ask(viewer_id, candidate_ids, 0)
        return ranked

    async def explain(self, viewer_id: int, candidate_ids: Sequence[int], post_id: int) -> tuple[Ranked, Scores]:
        ranked, answer = await self._ask(viewer_id, candidate_ids, post_id)
        found = answer.explanation
        features = [(feature.name, feature.value) for feature in found.features]
        return ranked, Scores(
            found.quick_score, found.quick_place, found.model_score, found.model_place, answer.model_version, features
        )

    async def _ask(
        self, viewer_id: int, candidate_ids: Sequence[int], explain_id: int
    ) -> tuple[Ranked, pb.RankCandidatesResponse]:
        candidates = np.fromiter(candidate_ids, dtype="<i8", count=len(candidate_ids))
        request = pb.RankCandidatesRequest(
            user_id=viewer_id, candidate_ids=candidates.tobytes(), limit=HEAD_CAPACITY, explain_id=explain_id
        )
        raw = await self._channel.call(RANK_CANDIDATES, request.SerializeToString(), self._timeout_s)
        try:
            answer = pb.RankCandidatesResponse.FromString(raw)
            places = np.frombuffer(answer.places, dtype="<u2")
            authors = np.frombuffer(answer.author_ids, dtype="<i8")
            scores = np.frombuffer(answer.scores, dtype="<f4")
        except (DecodeError, ValueError) as failure:
            raise Internal("RANK_ANSWER_INVALID") from failure
        expected = min(len(candidate_ids), HEAD_CAPACITY)
        if not len(places) == len(authors) == len(scores) == expected:
            raise Internal("RANK_ANSWER_INVALID")
        if not _chosen_once(places, len(candidates)) or not np.isfinite(scores).all():
            raise Internal("RANK_ANSWER_INVALID")
        return Ranked(candidates.take(places).tolist(), authors.tolist(), not answer.features_unavailable), answer


def _chosen_once(places: Places, candidates: int) -> bool:
    """Whether each of *places* is one of so many *candidates*, and none comes twice."""
    counts = np.bincount(places, minlength=candidates)
    return len(counts) == candidates and int(counts.max(initial=0)) <= 1

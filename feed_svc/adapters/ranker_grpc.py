"""Ranker over rank_svc: the one gRPC hop of the hot path, packed ids in and out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from feedmesh.rank.v1 import rank_service_pb2 as pb
from numpy.typing import NDArray

from feed_svc.model import HEAD_CAPACITY, Ranked
from foundation.errors import Internal
from foundation.rpc.unary import UnaryChannel

RANK_CANDIDATES = "/feedmesh.rank.v1.RankService/RankCandidates"


class GrpcRanker:
    """feed_svc.ports.Ranker."""

    def __init__(self, channel: UnaryChannel, *, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    async def rank(self, viewer_id: int, candidate_ids: Sequence[int]) -> Ranked:
        candidates = np.array(candidate_ids, dtype="<i8")
        packed = candidates.tobytes()
        request = pb.RankCandidatesRequest(user_id=viewer_id, candidate_ids=packed, limit=HEAD_CAPACITY)
        raw = await self._channel.call(RANK_CANDIDATES, request.SerializeToString(), self._timeout_s)
        answer = pb.RankCandidatesResponse.FromString(raw)
        ids = np.frombuffer(answer.post_ids, dtype="<i8")
        authors = np.frombuffer(answer.author_ids, dtype="<i8")
        expected = min(len(candidates), HEAD_CAPACITY)
        if len(ids) != expected or len(authors) != expected or not _chosen_from(candidates, ids):
            raise Internal("RANK_ANSWER_INVALID")
        return Ranked(ids.tolist(), authors.tolist())


def _chosen_from(candidates: NDArray[np.int64], ids: NDArray[np.int64]) -> bool:
    """True if *ids* are distinct and all among *candidates*."""
    ordered, chosen = np.sort(candidates), np.sort(ids)
    places = np.searchsorted(ordered, chosen)
    found = places < len(ordered)
    return bool(found.all() and (ordered[places] == chosen).all() and (np.diff(chosen) > 0).all())

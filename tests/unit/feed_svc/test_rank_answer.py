"""What feed_svc takes for an answer of ranking: only ids that were asked for, each once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest
from feedmesh.rank.v1 import rank_service_pb2 as pb

from feed_svc.adapters.ranker_grpc import GrpcRanker
from foundation.errors import Internal

ASKED = [90, 70, 50, 30, 10]


class Answering:
    """A channel of a service that answers this, whatever it is asked."""

    def __init__(self, places: Sequence[int], authors: Sequence[int], scores: Sequence[float]) -> None:
        self.answer = pb.RankCandidatesResponse(
            places=array("H", places).tobytes(),
            author_ids=array("q", authors).tobytes(),
            scores=array("f", scores).tobytes(),
        )

    async def call(self, path: str, request: bytes, cap_s: float) -> bytes:
        return self.answer.SerializeToString()


async def ranked(places: Sequence[int], scores: Sequence[float] = (5, 4, 3, 2, 1), authors: int = 5) -> list[int]:
    channel = Answering(places, range(1, authors + 1), scores)
    found = await GrpcRanker(channel, timeout_s=1.0).rank(7, ASKED)  # type: ignore[arg-type] # only `call` is used
    return list(found.ids)


async def test_an_order_of_what_was_asked_for_is_taken() -> None:
    assert await ranked([2, 0, 4, 1, 3]) == [50, 90, 10, 70, 30]


@pytest.mark.parametrize("places", [[2, 0, 4, 1, 1], [2, 0, 4, 1, 5], [2, 0, 4, 1, 65_535], [2, 0, 4, 1], []])
async def test_a_repeated_a_foreign_or_a_missing_place_is_refused(places: list[int]) -> None:
    with pytest.raises(Internal, match="RANK_ANSWER_INVALID"):
        await ranked(places)


async def test_scores_that_are_no_numbers_and_missing_authors_are_refused() -> None:
    with pytest.raises(Internal, match="RANK_ANSWER_INVALID"):
        await ranked([0, 1, 2, 3, 4], scores=[1, 2, float("nan"), 4, 5])
    with pytest.raises(Internal, match="RANK_ANSWER_INVALID"):
        await ranked([0, 1, 2, 3, 4], authors=4)

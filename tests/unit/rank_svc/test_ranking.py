"""Both stages of ranking: what is kept, in which order, and what a bad model may not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import Internal
from foundation.features import FEATURES, POST_FEATURES, PostFeatures, new_post_features
from foundation.model.clock import Millis
from foundation.model.ids import EPOCH_MS, id_at
from foundation.redis.client import RedisCluster
from rank_svc.adapters.feature_cache import CachedFeatures
from rank_svc.adapters.rule_model import rule_model
from rank_svc.adapters.scorer_onnx import ModelRefused, onnx_scorer
from rank_svc.flows.rank_candidates import RankCandidates
from rank_svc.model import FeatureRows, Ids, RankQuery
from rank_svc.stages.feature_matrix import age_hours, feature_matrix
from rank_svc.stages.quick_score import best, quick_scores
from tests.kit.models import constant_model

NOW_MS = EPOCH_MS + 40 * 86_400_000
HOUR_MS = 3_600_000


class StillClock:
    """Always the same moment."""

    def now_ms(self) -> Millis:
        return Millis(NOW_MS)

    def monotonic(self) -> float:
        return 0.0


class MadeUpFeatures:
    """Likes by post id; the author is the id's last digit."""

    def __init__(self, likes: dict[int, int]) -> None:
        self.likes = likes

    async def rows(self, post_ids: Ids) -> FeatureRows:
        values = np.zeros((len(post_ids), len(POST_FEATURES)), dtype=np.float32)
        values[:, 0] = [self.likes.get(post_id, 0) for post_id in post_ids.tolist()]
        return FeatureRows(values, post_ids % 10)

    async def put(self, features: Sequence[tuple[int, PostFeatures]]) -> None:
        raise AssertionError("ranking writes nothing")


def post(hours_old: float, place: int = 0) -> int:
    return id_at(int(NOW_MS - hours_old * HOUR_MS)) + place


async def ranked(model: bytes, likes: dict[int, int], ids: list[int], limit: int = 0, explain_id: int = 0) -> Any:
    async with onnx_scorer(model) as scorer:
        flow = RankCandidates(features=MadeUpFeatures(likes), scorer=scorer, clock=StillClock())
        query = RankQuery(1, np.array(ids, dtype=np.int64), limit, explain_id=explain_id)
        return await flow(query)


RULES = rule_model(recency=0.5, engagement=0.3, affinity=0.2)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(1, 2_000), st.integers(0, 10_000), min_size=1, max_size=300), st.integers(1, 200))
async def test_what_is_kept_is_the_best_of_stage_1_in_the_order_of_stage_2(likes: dict[int, int], limit: int) -> None:
    ids = [post(age / 20, age) for age in likes]
    by_id = dict(zip(ids, likes.values(), strict=True))
    result = await ranked(RULES, by_id, ids, limit)
    values = (await MadeUpFeatures(by_id).rows(np.array(ids))).values
    quick = quick_scores(values, age_hours(np.array(ids), NOW_MS))
    expected = {ids[place] for place in best(quick, np.array(ids), limit)}
    assert set(result.post_ids.tolist()) == expected
    assert len(result.post_ids) == min(limit, len(ids))
    assert (np.diff(result.scores) <= 0).all()
    assert (result.author_ids == result.post_ids % 10).all()


async def test_the_rules_score_as_the_specification_says() -> None:
    fresh, old, liked = post(0, 1), post(24, 2), post(24, 3)
    result = await ranked(RULES, {liked: 1_000}, [old, liked, fresh])
    assert result.post_ids.tolist() == [fresh, liked, old]
    expected = 0.5 * np.exp(-24 / 12) + 0.3 * (np.log1p(1_000) * 0.5) / 15 + 0.2 * 0.5
    assert result.scores[1] == pytest.approx(expected, rel=1e-4)
    assert result.model_version == "rules-1"


async def test_a_candidate_is_explained_whether_stage_1_kept_it_or_not() -> None:
    ids = [post(age, age) for age in range(1, 6)]
    full = await ranked(RULES, {}, ids)
    for place, post_id in enumerate(ids, start=1):
        told = (await ranked(RULES, {}, ids, 3, post_id)).explained
        assert (told.quick_place, told.model_place) == (place, place if place <= 3 else 0)
        assert told.model_score == pytest.approx(float(full.scores[place - 1]))
        assert told.features[FEATURES.index("post_age_hours")] == pytest.approx(place, abs=1e-3)
    assert (await ranked(RULES, {}, ids, 3)).explained is None
    assert (await ranked(RULES, {}, ids, 3, 7)).explained is None, "no candidate"


async def test_ties_go_to_the_greater_id() -> None:
    ids = [post(5, place) for place in (2, 9, 4)]
    result = await ranked(constant_model(1.0), {}, ids)
    assert result.post_ids.tolist() == sorted(ids, reverse=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_scores_that_are_no_numbers_fail(value: float) -> None:
    with pytest.raises(Internal) as failed:
        await ranked(constant_model(value), {}, [post(1)])
    assert failed.value.reason == "MODEL_FAILED"


async def test_a_model_for_other_features_is_refused() -> None:
    with pytest.raises(ModelRefused, match="train it again"):
        async with onnx_scorer(constant_model(1.0, fingerprint=7)):
            pass
    with pytest.raises(ModelRefused, match="takes 3 features"):
        async with onnx_scorer(constant_model(1.0, width=3)):
            pass
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        async with onnx_scorer(b"no model"):
            pass


def test_a_row_has_the_features_in_their_order() -> None:
    row = new_post_features(author_id=1, caption_length=120, hashtag_count=2, has_video=True, follower_count=9)
    matrix = feature_matrix(
        row.values[np.newaxis, :], np.array([3.5], np.float32), now_ms=NOW_MS, session_length_s=60, posts_seen=4
    )
    named = dict(zip(FEATURES, matrix[0].tolist(), strict=True))
    assert named["post_age_hours"] == 3.5
    assert (named["caption_length"], named["is_video"], named["has_hashtags"]) == (120, 1, 1)
    assert (named["author_follower_count"], named["user_author_affinity"]) == (9, 0.5)
    assert (named["session_length"], named["posts_seen_this_session"]) == (60, 4)
    assert named["hour_of_day"] == NOW_MS // HOUR_MS % 24
    assert named["day_of_week"] == 6  # 2023-12-24 was a Sunday


async def test_features_come_from_the_store_and_stay_bounded(redis: RedisCluster) -> None:
    writer = CachedFeatures(redis, capacity=1_000)
    posts = [
        (post_id, new_post_features(author_id=post_id * 2, caption_length=post_id, hashtag_count=0, has_video=False))
        for post_id in range(1, 301)
    ]
    await writer.put(posts)
    reader = CachedFeatures(redis, capacity=100)
    for start in range(1, 301, 50):
        ids = np.arange(start, start + 50, dtype=np.int64)
        rows = await reader.rows(ids)
        assert (rows.author_ids == ids * 2).all()
        assert (rows.values[:, POST_FEATURES.index("caption_length")] == ids).all()
    unknown = await reader.rows(np.array([9_999, 300], dtype=np.int64))
    assert unknown.author_ids.tolist() == [0, 600]
    assert not unknown.values[0].any()

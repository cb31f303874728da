"""Features over Redis behind a columnar table in the process: a binary search over sorted ids, the rest is numpy.

A post's author and media never change and nobody counts anything yet, so rows stay until they are evicted; the updater
of the same process overwrites them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foundation.features import POST_FEATURES, TTL_S, PostFeatures, decode_features, encode_features, features_key
from foundation.redis.client import RedisCluster
from rank_svc.model import FeatureRows, Ids

READ_WITHIN_S = 0.05
"""Half of the time that a first page has for ranking: a store that is late costs features, not the ranking."""
UNKNOWN = 0
"""The table's first row: zeros, author 0."""
YOUNG = 512
YOUNG_SHARE = 1.05
"""The sorted index is made again when the table has grown by this share and number."""


class CachedFeatures:
    """rank_svc.ports.Features."""

    def __init__(self, redis: RedisCluster, *, capacity: int) -> None:
        self._redis = redis
        self._capacity = capacity
        self._row_of: dict[int, int] = {}
        size = min(capacity, 4_096) + 1
        self._values = np.zeros((size, len(POST_FEATURES)), dtype=np.float32)
        self._authors = np.zeros(size, dtype=np.int64)
        self._index()

    async def rows(self, post_ids: Ids) -> FeatureRows:
        places, unknown = self._places(post_ids)
        whole = True
        if unknown:
            whole = await self._load(unknown)
            places, _ = self._places(post_ids)
        return FeatureRows(self._values.take(places, axis=0), self._authors.take(places), whole)

    def _places(self, post_ids: Ids) -> tuple[NDArray[np.intp], list[int]]:
        """Rows of *post_ids* (UNKNOWN where there is none), and the ids of those that have none."""
        at = self._sorted_ids.searchsorted(post_ids)
        places = self._sorted_rows.take(at)
        young = np.flatnonzero(self._sorted_ids.take(at) != post_ids)
        unknown: list[int] = []
        for place, post_id in zip(young.tolist(), post_ids[young].tolist(), strict=True):
            row = self._row_of.get(post_id, UNKNOWN)
            places[place] = row
            if row == UNKNOWN:
                unknown.append(post_id)
        return places, unknown

    async def put(self, features: Sequence[tuple[int, PostFeatures]]) -> None:
        await self._redis.execute(
            [("SET", features_key(post_id), encode_features(row), "EX", TTL_S) for post_id, row in features]
        )
        for post_id, row in features:
            self._keep(post_id, row)

    async def _load(self, post_ids: Sequence[int]) -> bool:
        """Whether every node answered. Ranking with defaults beats no ranking; the next request asks again."""
        commands = [("GET", features_key(post_id)) for post_id in post_ids]
        records = await self._redis.try_execute(commands, timeout_s=READ_WITHIN_S)
        whole = True
        for post_id, record in zip(post_ids, records, strict=True):
            if isinstance(record, Exception):
                whole = False
                continue
            row = decode_features(record) if record is not None else None
            if row is not None:
                self._keep(post_id, row)
        return whole

    def _keep(self, post_id: int, row: PostFeatures) -> None:
        place = self._row_of.get(post_id)
        if place is None:
            if len(self._row_of) >= self._capacity:
                self._evict()
            place = len(self._row_of) + 1
            if place == len(self._authors):
                self._grow()
            self._row_of[post_id] = place
            if place > YOUNG_SHARE * len(self._sorted_ids) + YOUNG:
                self._index()
        self._values[place] = row.values
        self._authors[place] = row.author_id

    def _grow(self) -> None:
        size = min(2 * len(self._authors), self._capacity + 1)
        values = np.zeros((size, len(POST_FEATURES)), dtype=np.float32)
        authors = np.zeros(size, dtype=np.int64)
        values[: len(self._values)] = self._values
        authors[: len(self._authors)] = self._authors
        self._values, self._authors = values, authors

    def _evict(self) -> None:
        """Keep the newer half: feeds are made of new posts."""
        newest = sorted(self._row_of, reverse=True)[: self._capacity // 2]
        places = np.array([UNKNOWN, *(self._row_of[post_id] for post_id in newest)], dtype=np.intp)
        count = len(places)
        self._values[:count] = self._values[places]
        self._authors[:count] = self._authors[places]
        self._row_of = {post_id: place for place, post_id in enumerate(newest, start=1)}
        self._index()

    def _index(self) -> None:
        """Sort the ids. Those kept since are found one by one, until they are many."""
        count = len(self._row_of)
        ids = np.fromiter(self._row_of.keys(), dtype=np.int64, count=count)
        rows = np.fromiter(self._row_of.values(), dtype=np.intp, count=count)
        order = np.argsort(ids)
        self._sorted_ids = np.append(ids[order], np.iinfo(np.int64).max)
        self._sorted_rows = np.append(rows[order], UNKNOWN)

"""Features over Redis behind a columnar table in the process: rows are found by an index, the rest is numpy.

A post's author and media never change and nobody counts anything yet, so rows stay until they are evicted; the updater
of the same process overwrites them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foundation.features import POST_FEATURES, TTL_S, PostFeatures, decode_features, encode_features, features_key
from foundation.redis.client import RedisCluster
from rank_svc.adapters.row_index import UNKNOWN, RowIndex
from rank_svc.model import FeatureRows, Ids

READ_WITHIN_S = 0.05
"""Half of the time that a first page has for ranking: a store that is late costs features, not the ranking."""


class CachedFeatures:
    """rank_svc.ports.Features."""

    def __init__(self, redis: RedisCluster, *, capacity: int) -> None:
        self._redis = redis
        self._capacity = capacity
        self._index = RowIndex()
        size = min(capacity, 4_096) + 1
        self._values = np.zeros((size, len(POST_FEATURES)), dtype=np.float32)
        """The row of UNKNOWN is zeros, author 0."""
        self._authors = np.zeros(size, dtype=np.int64)

    async def rows(self, post_ids: Ids) -> FeatureRows:
        rows, unknown = self._index.find(post_ids)
        whole = True
        if unknown:
            whole = await self._load(post_ids[unknown].tolist())
            rows, _ = self._index.find(post_ids)
        return FeatureRows(self._values.take(rows, axis=0), self._authors.take(rows), whole)

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
        place = self._index.get(post_id)
        if place == UNKNOWN:
            if len(self._index) >= self._capacity:
                self._evict()
            place = self._index.add(post_id)
            if place == len(self._authors):
                self._grow()
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
        newest = self._index.newest(self._capacity // 2)
        rows = [UNKNOWN, *map(self._index.get, newest)]
        self._values[: len(rows)] = self._values[rows]
        self._authors[: len(rows)] = self._authors[rows]
        self._index = RowIndex(newest)

"""Recommended posts of a viewer: `recs:{u}`, written by rank_svc, read by feed_svc with the viewer's home.

Layout 1, little endian: u8 layout, i64 when they were made in ms since 1970, then post ids as i64, best first.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

import numpy as np

LAYOUT = 1
MOST = 100
"""Ids in a record."""
TTL_S = 3_600
_HEAD = struct.Struct("<Bq")


def recommendations_key(viewer_id: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"recs:{{{viewer_id}}}"


def encode_recommendations(post_ids: Sequence[int], made_ms: int) -> bytes:
    """The packed record of the first MOST of *post_ids*."""
    packed = np.frombuffer(array("q", post_ids[:MOST]), dtype=np.int64).astype("<i8", copy=False).tobytes()
    return _HEAD.pack(LAYOUT, made_ms) + packed


def decode_recommendations(record: bytes) -> tuple[Sequence[int], int] | None:
    """The ids and when they were made; None for an unknown layout."""
    if len(record) < _HEAD.size or record[0] != LAYOUT or (len(record) - _HEAD.size) % 8:
        return None
    ids: list[int] = np.frombuffer(record, "<i8", offset=_HEAD.size).tolist()
    return ids, _HEAD.unpack_from(record)[1]

"""The order in which chunks that wait together are delivered: authors take turns, so a burst of one delays no other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fanout_worker.model import Chunk


def fair_order(chunks: Sequence[Chunk]) -> list[int]:
    """Places in *chunks*: every author's first, then every author's second, and so on; what is limited comes last."""
    turns: dict[tuple[int, bool], int] = defaultdict(int)
    keys: list[tuple[bool, int, int]] = []
    for place, chunk in enumerate(chunks):
        whose = (chunk.author_id, chunk.rate_limited)
        keys.append((chunk.rate_limited, turns[whose], place))
        turns[whose] += 1
    return [place for _, _, place in sorted(keys)]

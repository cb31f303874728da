"""The viewer record `viewer:{u}`: whom a viewer follows, blocks (either way) and mutes, as one packed value.

Layout 2, little endian: u8 layout, u8 state, u16 zero, i64 version, u32 follows, u32 blocks, u32 mutes, u32 pulled,
u32 supers, then those ids as i64, each group ascending; pulled and supers are among follows. graph_svc
writes it, by compare-version; feed_svc and post_svc read it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from foundation.visibility import Edge, EdgeState, UserState

LAYOUT = 2
TTL_S = 3_600
_HEAD = struct.Struct("<BBHqIIIII")


def viewer_key(user_id: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"viewer:{{{user_id}}}"


@dataclass(slots=True, frozen=True)
class ViewerRecord:
    """What reads need to know of a viewer."""

    version: int
    """Grows with every change of the viewer's edges."""
    state: UserState
    follows: frozenset[int]
    blocks: frozenset[int]
    """Users whom the viewer blocks or who block the viewer."""
    mutes: frozenset[int]
    pulled: frozenset[int] = frozenset()
    """Of `follows`, those whose posts may not be in the viewer's timeline: tiers BOTH, PULL and SUPER."""
    supers: frozenset[int] = frozenset()
    """Of `pulled`, those of tier SUPER."""

    def edge(self, author_id: int) -> Edge:
        """What the viewer and an author are to each other."""
        return Edge(
            follow=EdgeState.FOLLOWING if author_id in self.follows else EdgeState.NONE,
            blocked=author_id in self.blocks,
            muted=author_id in self.mutes,
        )


def encode_viewer(
    *,
    version: int,
    state: UserState,
    follows: Iterable[int],
    blocks: Iterable[int],
    mutes: Iterable[int],
    pulled: Iterable[int] = (),
    supers: Iterable[int] = (),
) -> bytes:
    """The packed record."""
    groups = [np.array(sorted(group), dtype="<i8") for group in (follows, blocks, mutes, pulled, supers)]
    head = _HEAD.pack(LAYOUT, state, 0, version, *(len(group) for group in groups))
    return head + b"".join(group.tobytes() for group in groups)


def decode_viewer(record: bytes) -> ViewerRecord | None:
    """The record, or None for an unknown layout: a miss."""
    if len(record) < _HEAD.size or record[0] != LAYOUT:
        return None
    _, state, _, version, *lengths = _HEAD.unpack_from(record)
    if len(record) != _HEAD.size + 8 * sum(lengths):
        return None
    ids = iter(np.frombuffer(record, dtype="<i8", offset=_HEAD.size).tolist())
    follows, blocks, mutes, pulled, supers = (frozenset(islice(ids, length)) for length in lengths)
    return ViewerRecord(version, UserState(state), follows, blocks, mutes, pulled, supers)

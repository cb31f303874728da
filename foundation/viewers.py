"""The viewer record `viewer:{u}`: whom a viewer follows, blocks (either way) and mutes, as one packed value.

Layout 2, little endian: u8 layout, u8 state, u16 zero, i64 version, u32 follows, u32 blocks, u32 mutes, u32 pulled,
u32 supers, then those ids as i64, each group ascending; pulled and supers are among follows. graph_svc
writes it, by compare-version; feed_svc and post_svc read it.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foundation.visibility import Edge, EdgeState, UserState

LAYOUT = 2
TTL_S = 3_600
_HEAD = struct.Struct("<BBHqIIIII")


def viewer_key(user_id: int) -> str:
    """Redis key; the braces put all keys of one user on one node."""
    return f"viewer:{{{user_id}}}"


class PackedIds(AbstractSet[int]):
    """A set of ids that stays as it came, ascending: nothing is unpacked but what is looked at.

    A page looks for some twenty authors, 0.4 µs each; a set of 7,500 that is made for it takes 300.
    """

    __slots__ = ("_ids", "_view")

    def __init__(self, ids: npt.NDArray[np.int64]) -> None:
        self._ids = ids
        self._view: memoryview[int] = ids.data

    def __contains__(self, one: object) -> bool:
        if not isinstance(one, int):
            return False
        view = self._view
        at = bisect_left(view, one)
        return at < len(view) and view[at] == one

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __len__(self) -> int:
        return len(self._view)

    @classmethod
    def _from_iterable(cls, it: Iterable[int]) -> frozenset[int]:  # type: ignore[override] # what | and - make
        return frozenset(it)

    def __repr__(self) -> str:
        return f"PackedIds({self._ids.tolist()})"


@dataclass(slots=True, frozen=True)
class ViewerRecord:
    """What reads need to know of a viewer."""

    version: int
    """Grows with every change of the viewer's edges."""
    state: UserState
    follows: AbstractSet[int]
    blocks: AbstractSet[int]
    """Users whom the viewer blocks or who block the viewer."""
    mutes: AbstractSet[int]
    pulled: AbstractSet[int] = frozenset()
    """Of `follows`, those whose posts may not be in the viewer's timeline: tiers BOTH, PULL and SUPER."""
    supers: AbstractSet[int] = frozenset()
    """Of `pulled`, those of tier SUPER."""

    def edge(self, author_id: int) -> Edge:
        """What the viewer and an author are to each other."""
        return _EDGES[author_id in self.follows, author_id in self.blocks, author_id in self.mutes]


_EDGES = {
    (follows, blocked, muted): Edge(EdgeState.FOLLOWING if follows else EdgeState.NONE, blocked, muted)
    for follows in (False, True)
    for blocked in (False, True)
    for muted in (False, True)
}
"""All there can be: a look-up takes a third of making one, for every post of every page."""
_NOBODY: frozenset[int] = frozenset()


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
    ids = np.frombuffer(record, dtype="<i8", offset=_HEAD.size).astype(np.int64, copy=False)
    groups: list[AbstractSet[int]] = []
    start = 0
    for length in lengths:
        groups.append(PackedIds(ids[start : start + length]) if length else _NOBODY)
        start += length
    return ViewerRecord(version, UserState(state), *groups)

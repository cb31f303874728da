"""Records that answers are spliced from: `card:{p}` of a post, `author:{u}` of an author.

Layout 1 of a card, little endian: u8 layout, u8 post state, u16 zero, i64 version, i64 author id, then the encoded
feedmesh.post.v1.Post without its fields author and engagement. A tombstone has state DELETED, version MAX_ID, no post.
Layout 2 of an author: u8 layout, u8 user state, u8 is_private, u8 tier, i64 version, u32 followers, then the encoded
feedmesh.post.v1.Author. post_svc writes cards, graph_svc authors, both by compare-version from rows; TTL at most 1 h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from foundation.model.tiers import Tier
from foundation.visibility import AuthorFacts, PostState, UserState

LAYOUT = 1
AUTHOR_LAYOUT = 2
TTL_S = 3_600
TOMBSTONE_VERSION = 2**63 - 1
# A look-up costs a third of calling the enum; these run for every post of every page.
_POST_STATES = {int(state): state for state in PostState}
_USER_STATES = {int(state): state for state in UserState}
_CARD = struct.Struct("<BBHqq")
_TIERS = {int(tier): tier for tier in Tier}
_AUTHOR = struct.Struct("<BBBBqI")


def card_key(post_id: int) -> str:
    """Redis key of a card."""
    return f"card:{{{post_id}}}"


def author_key(user_id: int) -> str:
    """Redis key of an author record."""
    return f"author:{{{user_id}}}"


@dataclass(slots=True)
class Card:
    """A post ready to be spliced."""

    author_id: int
    state: PostState
    version: int
    encoded: bytes
    """feedmesh.post.v1.Post without author and engagement."""


@dataclass(slots=True)
class AuthorCard:
    """An author ready to be spliced, and what visibility needs to know."""

    facts: AuthorFacts
    version: int
    tier: Tier
    follower_count: int
    """As it was when the record was written: at most an hour old."""
    encoded: bytes
    """feedmesh.post.v1.Author."""


def encode_card(*, author_id: int, state: PostState, version: int, encoded: bytes) -> bytes:
    """The packed record."""
    return _CARD.pack(LAYOUT, state, 0, version, author_id) + encoded


def decode_card(record: bytes) -> Card | None:
    """The card, or None for an unknown layout: a miss."""
    if len(record) < _CARD.size or record[0] != LAYOUT:
        return None
    _, state, _, version, author_id = _CARD.unpack_from(record)
    known = _POST_STATES.get(state)
    return Card(author_id, known, version, record[_CARD.size :]) if known is not None else None


def encode_author(
    *, state: UserState, is_private: bool, version: int, tier: Tier, follower_count: int, encoded: bytes
) -> bytes:
    """The packed record."""
    return _AUTHOR.pack(AUTHOR_LAYOUT, state, is_private, tier, version, follower_count) + encoded


def decode_author(user_id: int, record: bytes) -> AuthorCard | None:
    """The author, or None for an unknown layout: a miss."""
    if len(record) < _AUTHOR.size or record[0] != AUTHOR_LAYOUT:
        return None
    _, state, is_private, tier, version, follower_count = _AUTHOR.unpack_from(record)
    known, known_tier = _USER_STATES.get(state), _TIERS.get(tier)
    if known is None or known_tier is None:
        return None
    facts = AuthorFacts(user_id, known, bool(is_private))
    return AuthorCard(facts, version, known_tier, follower_count, record[_AUTHOR.size :])


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


_SMALL = [_varint(n) for n in range(1 << 14)]


def varint(n: int) -> bytes:
    """Protobuf's encoding of a length."""
    return _SMALL[n] if n < 1 << 14 else _varint(n)


_AUTHOR_TAG = b"\x12"  # field 2, length-delimited
NO_ENGAGEMENT = b"\x3a\x00"  # field 7, empty: nobody has done anything yet


def splice_post(card: bytes, author: bytes, engagement: bytes = NO_ENGAGEMENT) -> bytes:
    """An encoded feedmesh.post.v1.Post from its three parts: protobuf merges concatenated fields."""
    return b"".join((card, _AUTHOR_TAG, varint(len(author)), author, engagement))

"""Spliced bytes are what protobuf would have written; unknown layouts are misses."""

from __future__ import annotations

from feedmesh.feed.v1 import feed_pb2
from feedmesh.feed.v1.feed_service_pb2 import GetFeedResponse
from feedmesh.post.v1.post_pb2 import Author, Engagement, Post
from hypothesis import given
from hypothesis import strategies as st

from feed_svc.edge.wire import feed_response
from feed_svc.model import Degraded, FeedPage
from foundation.cards import (
    TOMBSTONE_VERSION,
    decode_author,
    decode_card,
    encode_author,
    encode_card,
    splice_post,
    varint,
)
from foundation.model.tiers import Tier
from foundation.viewers import decode_viewer, encode_viewer
from foundation.visibility import PostState, UserState

ids = st.integers(1, 2**63 - 1)


@given(ids, st.text(max_size=2_200), st.lists(st.text(max_size=5), max_size=3), ids, st.text(max_size=30))
def test_a_spliced_post_is_the_whole_message(
    post_id: int, caption: str, hashtags: list[str], user_id: int, username: str
) -> None:
    card = Post(post_id=post_id, caption=caption, hashtags=hashtags)
    author = Author(user_id=user_id, username=username)
    whole = Post(post_id=post_id, caption=caption, hashtags=hashtags, author=author, engagement=Engagement())
    spliced = splice_post(card.SerializeToString(), author.SerializeToString())
    assert Post.FromString(spliced) == whole
    page = FeedPage([spliced, spliced], None, 255, frozenset({Degraded.RANK_FALLBACK}), cache_hit=True)
    assert GetFeedResponse.FromString(feed_response(page, "next")) == GetFeedResponse(
        posts=[whole, whole],
        next_cursor="next",
        has_more=True,
        feed_session_id="fs_ff",
        quality=feed_pb2.DEGRADED,
        degraded_reasons=[feed_pb2.RANK_FALLBACK],
        cache_status=feed_pb2.HIT,
    )


@given(st.integers(0, 2**31))
def test_a_varint_is_protobufs(n: int) -> None:
    from google.protobuf.internal.encoder import _VarintBytes

    assert varint(n) == _VarintBytes(n)


@given(ids, st.binary(max_size=50))
def test_records_come_back(author_id: int, encoded: bytes) -> None:
    card = decode_card(encode_card(author_id=author_id, state=PostState.ACTIVE, version=7, encoded=encoded))
    assert card is not None
    assert (card.author_id, card.state, card.version, card.encoded) == (author_id, PostState.ACTIVE, 7, encoded)
    record = encode_author(
        state=UserState.DEACTIVATED, is_private=True, version=9, tier=Tier.PULL, follower_count=11_000, encoded=encoded
    )
    author = decode_author(author_id, record)
    assert author is not None
    assert (author.facts.state, author.facts.is_private, author.version) == (UserState.DEACTIVATED, True, 9)
    assert (author.tier, author.follower_count) == (Tier.PULL, 11_000)
    assert author.encoded == encoded


@given(st.sets(ids, max_size=50), st.sets(ids, max_size=5), st.sets(ids, max_size=5))
def test_a_viewer_comes_back(follows: set[int], blocks: set[int], mutes: set[int]) -> None:
    pulled = set(sorted(follows)[:3])
    supers = set(sorted(pulled)[:1])
    record = encode_viewer(
        version=3, state=UserState.ACTIVE, follows=follows, blocks=blocks, mutes=mutes, pulled=pulled, supers=supers
    )
    viewer = decode_viewer(record)
    assert viewer is not None
    assert (viewer.version, viewer.follows, viewer.blocks, viewer.mutes) == (3, follows, blocks, mutes)
    assert (viewer.pulled, viewer.supers) == (pulled, supers)


def test_an_unknown_layout_or_a_cut_record_is_a_miss() -> None:
    card = encode_card(author_id=1, state=PostState.DELETED, version=TOMBSTONE_VERSION, encoded=b"")
    viewer = encode_viewer(version=1, state=UserState.ACTIVE, follows=[1], blocks=[], mutes=[])
    assert decode_card(b"\x09" + card[1:]) is None
    assert decode_card(card[:10]) is None
    assert decode_viewer(b"\x09" + viewer[1:]) is None
    assert decode_viewer(viewer[:-1]) is None
    assert decode_author(1, b"") is None

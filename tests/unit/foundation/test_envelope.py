"""Envelopes round-trip; what this version does not know is refused, not guessed."""

from __future__ import annotations

import pytest
from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING, BlockChanged, FollowChanged
from feedmesh.events.v1.post_events_pb2 import PostCreated, PostDeleted, PostUpdated
from hypothesis import given
from hypothesis import strategies as st

from foundation.events.envelope import SCHEMA_VERSION, AnyEvent, Undecodable, decode, encode
from foundation.model.ids import MAX_ID

ids = st.integers(0, MAX_ID)
EVENTS: list[tuple[str, AnyEvent]] = [
    ("post_created", PostCreated(post_id=7, author_id=8, caption_length=9, hashtag_count=2, has_video=True)),
    ("post_updated", PostUpdated(post_id=7, author_id=8, caption_length=3)),
    ("post_deleted", PostDeleted(post_id=7, author_id=8)),
    ("follow_changed", FollowChanged(follower_id=1, followee_id=2, state=FOLLOW_STATE_FOLLOWING)),
    (
        "fanout_chunk",
        FanoutChunk(post_ids=[7], author_id=8, follower_ids=b"12345678", number=1, last=True, deliveries=1),
    ),
    ("block_changed", BlockChanged(blocker_id=1, blocked_id=2, blocked=True)),
]


@pytest.mark.parametrize(("kind", "event"), EVENTS)
def test_every_event_round_trips(kind: str, event: AnyEvent) -> None:
    envelope = decode(encode(event, event_id=5, version=6, region=3))
    assert envelope.WhichOneof("event") == kind
    assert getattr(envelope, kind) == event
    assert (envelope.event_id, envelope.version, envelope.origin_region) == (5, 6, 3)
    assert envelope.schema_version == SCHEMA_VERSION


def test_every_event_of_the_contract_is_tried_here() -> None:
    assert {kind for kind, _ in EVENTS} == {field.name for field in Envelope.DESCRIPTOR.oneofs_by_name["event"].fields}


@given(event_id=ids, version=ids, post_id=ids)
def test_no_number_is_bent(event_id: int, version: int, post_id: int) -> None:
    envelope = decode(encode(PostDeleted(post_id=post_id), event_id=event_id, version=version))
    assert (envelope.event_id, envelope.version, envelope.post_deleted.post_id) == (event_id, version, post_id)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_undecodable(value: bytes) -> None:
    try:
        envelope = decode(value)
    except Undecodable:
        return
    assert envelope.WhichOneof("event")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"no envelope",
        Envelope(schema_version=SCHEMA_VERSION, event_id=1).SerializeToString(),
        Envelope(schema_version=0, post_deleted=PostDeleted(post_id=1)).SerializeToString(),
        Envelope(schema_version=SCHEMA_VERSION + 1, post_deleted=PostDeleted(post_id=1)).SerializeToString(),
    ],
    ids=["empty", "cut", "text", "no event", "no schema", "newer schema"],
)
def test_what_is_not_understood_is_undecodable(value: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(value)

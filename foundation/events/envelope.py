"""Envelopes to bytes and back."""

from __future__ import annotations

from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.graph_events_pb2 import BlockChanged, FollowChanged
from feedmesh.events.v1.post_events_pb2 import PostCreated, PostDeleted, PostUpdated
from google.protobuf.message import DecodeError

from foundation.errors import DomainError

SCHEMA_VERSION = 1

AnyEvent = PostCreated | PostUpdated | PostDeleted | FollowChanged | BlockChanged | FanoutChunk


class Undecodable(DomainError):
    """Bytes that are no envelope of a version that is known."""


def encode(event: AnyEvent, *, event_id: int, version: int, region: int = 0) -> bytes:
    """The encoded envelope of *event*."""
    envelope = Envelope(event_id=event_id, schema_version=SCHEMA_VERSION, origin_region=region, version=version)
    match event:
        case PostCreated():
            envelope.post_created.CopyFrom(event)
        case PostUpdated():
            envelope.post_updated.CopyFrom(event)
        case PostDeleted():
            envelope.post_deleted.CopyFrom(event)
        case FollowChanged():
            envelope.follow_changed.CopyFrom(event)
        case BlockChanged():
            envelope.block_changed.CopyFrom(event)
        case FanoutChunk():
            envelope.fanout_chunk.CopyFrom(event)
    return envelope.SerializeToString()


def decode(value: bytes) -> Envelope:
    """The envelope in *value*. Raises Undecodable: also for a newer schema and for an event that is not known."""
    try:
        envelope = Envelope.FromString(value)
    except DecodeError as exc:
        raise Undecodable("EVENT_MALFORMED") from exc
    if not 1 <= envelope.schema_version <= SCHEMA_VERSION or envelope.WhichOneof("event") is None:
        raise Undecodable("EVENT_UNKNOWN", schema_version=envelope.schema_version)
    return envelope

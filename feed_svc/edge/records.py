"""Records of the topic privacy to the fence. Every process reads all of them; any may be seen again."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope

from feed_svc.ports import Fence
from foundation.events.port import Record


class PrivacyRecords:
    """Learns from privacy. There is nothing to decide, so it goes straight to the port."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    def __call__(self, batch: Sequence[tuple[Record, Envelope]]) -> None:
        for _, envelope in batch:
            if envelope.HasField("post_deleted"):
                self._fence.post_deleted(envelope.post_deleted.post_id)
            elif envelope.HasField("block_changed"):
                change = envelope.block_changed
                self._fence.block_changed(
                    change.blocker_id, change.blocked_id, version=envelope.version, blocked=change.blocked
                )

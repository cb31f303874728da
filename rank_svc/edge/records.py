"""Records of posts.created and posts.updated to plain values to the flow."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope

from foundation.events.port import Record
from rank_svc.flows.update_features import UpdateFeatures
from rank_svc.model import PostFacts


class PostRecords:
    """Handles posts.created and posts.updated; may see a record again."""

    def __init__(self, update_features: UpdateFeatures) -> None:
        self._update_features = update_features

    async def __call__(self, batch: Sequence[tuple[Record, Envelope]]) -> None:
        events = [
            envelope.post_created if envelope.HasField("post_created") else envelope.post_updated
            for _, envelope in batch
            if envelope.WhichOneof("event") in ("post_created", "post_updated")
        ]
        await self._update_features(
            [
                PostFacts(event.post_id, event.author_id, event.caption_length, event.hashtag_count, event.has_video)
                for event in events
            ]
        )

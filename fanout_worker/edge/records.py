"""Records of the log to plain values to flows. Both handlers may see a record again: the flows are idempotent."""

from __future__ import annotations

from collections.abc import Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING

from fanout_worker.flows.backfill_follows import BackfillFollows
from fanout_worker.flows.fan_out_posts import FanOutPosts
from fanout_worker.flows.unlink_feeds import UnlinkFeeds
from fanout_worker.model import NewFollow, NewPost
from foundation.events.port import Record
from foundation.events.retries import Postponed

NODE_AWAY = "CACHE_NODE_UNAVAILABLE"


class FanOutRecords:
    """Handles posts.created."""

    def __init__(self, fan_out: FanOutPosts) -> None:
        self._fan_out = fan_out

    async def __call__(self, batch: Sequence[tuple[Record, Envelope]]) -> Sequence[Postponed]:
        created = [(record, envelope.post_created) for record, envelope in batch if envelope.HasField("post_created")]
        failed = await self._fan_out([NewPost(event.post_id, event.author_id) for _, event in created])
        # A node that is away is not the post's fault: its share waits for as long as that takes.
        return [Postponed(record, NODE_AWAY, counted=False) for record, event in created if event.post_id in failed]


class UndeliverableRecords:
    """Before a post's event goes to the dead letters: what was not pushed must be found by a rebuild (rule 2)."""

    def __init__(self, unlink_feeds: UnlinkFeeds) -> None:
        self._unlink_feeds = unlink_feeds

    async def __call__(self, _: Record, envelope: Envelope) -> None:
        if envelope.HasField("post_created"):
            await self._unlink_feeds(envelope.post_created.author_id)


class BackfillRecords:
    """Handles graph.by_follower."""

    def __init__(self, backfill: BackfillFollows) -> None:
        self._backfill = backfill

    async def __call__(self, batch: Sequence[tuple[Record, Envelope]]) -> None:
        changed = [envelope.follow_changed for _, envelope in batch if envelope.HasField("follow_changed")]
        await self._backfill(
            [
                NewFollow(event.follower_id, event.followee_id)
                for event in changed
                if event.state == FOLLOW_STATE_FOLLOWING
            ]
        )

"""Outboxes and consumer groups of a mesh: what `status` and `seed` look at to see whether everything was delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.events.port import (
    FEED_FANOUT,
    GRAPH_BY_FOLLOWEE,
    GRAPH_BY_FOLLOWER,
    POSTS_CREATED,
    POSTS_UPDATED,
    RETRY_1M,
    RETRY_5S,
    RETRY_10M,
)

OUTBOXES = ("graph_svc", "post_svc")
"""Services that publish what they wrote."""

CONSUMER_GROUPS: Mapping[str, Sequence[str]] = {
    "graph.followers": (GRAPH_BY_FOLLOWEE,),
    "fanout.backfill": (GRAPH_BY_FOLLOWER,),
    "fanout.posts": (POSTS_CREATED,),
    "fanout.large": (POSTS_CREATED,),
    "fanout.chunks": (FEED_FANOUT,),
    **{f"fanout.{topic}": (topic,) for topic in (RETRY_5S, RETRY_1M, RETRY_10M)},
    "rank.features": (POSTS_CREATED, POSTS_UPDATED),
}
"""Groups and their topics; a group that feeds another comes first, so that all zero means nothing is on its way."""

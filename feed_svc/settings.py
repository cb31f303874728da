"""What the feed service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.runtime.mesh import MeshSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of feed_svc; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    database_url: str = "sqlite:///feed.db"
    """Where positions live: a URL of SQLAlchemy, or cassandra://host[:port][,…]/keyspace (foundation/cql/address)."""
    cursor_key: str = ""
    """32 bytes in hex that seal cursors; every feed_svc of a mesh has the same. Required."""
    rank_timeout_ms: int = 100
    """How long a first page waits for ranking before it is newest first (seed section 10.2)."""
    answer_within_ms: int = 480
    """How long GetFeed and RefreshFeed may take, whatever fails (seed section 10.3): what is left of it is what a call
    to another service gets."""
    cache_timeout_ms: int = 100
    """How long a request waits for a node of the cache before it asks the owners of what the node holds."""
    graph_timeout_ms: int = 250
    """How long a request waits for viewer and author records that are not in the cache."""
    rebuild_timeout_ms: int = 300
    """How long a cold feed, or a page below the floor of the list, may take to assemble."""
    source_timeout_ms: int = 200
    """How long a first page waits for each source beside the list before it goes on without: once for a silent node of
    the cache, then for the store."""
    recommendations: bool = True
    """Whether RANKED heads hold posts of people whom the viewer does not follow; rank_svc, which looks for them, has
    the same setting."""
    max_watchers: int = 1_000
    """Streams of WatchFeed at a time; one more is RESOURCE_EXHAUSTED. Polling for so many takes 4 ms a second."""
    watch_life_s: float = 600.0
    """How long such a stream lasts before its client connects again, perhaps elsewhere."""
    kept_cards: int = 50_000
    """Cards, and author records, kept in the process while nobody tells that they changed; about 2 KB each. 0: none."""
    facts_capacity: int = 1_000_000
    """Post-to-author facts kept in the process; about 100 bytes each."""

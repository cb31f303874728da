"""What the post service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.runtime.mesh import MeshSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of post_svc; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    database_url: str = "sqlite:///posts.db"
    """Where posts live: a URL of SQLAlchemy, or cassandra://host[:port][,…]/keyspace (foundation/cql/address.py)."""
    cursor_key: str = ""
    """32 bytes in hex that seal list cursors. Required."""
    author_timeout_ms: int = 50
    """How long a new post waits for its author's timeline and its card before it is acknowledged without."""

"""What the graph service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.runtime.mesh import MeshSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of graph_svc; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    database_url: str = "sqlite:///graph.db"
    """Where users and edges live."""
    cursor_key: str = ""
    """32 bytes in hex that seal list cursors. Required."""
    follow_limit: int = 7_500
    """Most accounts that one user may follow."""

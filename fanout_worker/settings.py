"""What the fan-out worker can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.runtime.mesh import MeshSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of fanout_worker; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    max_records: int = 500
    """Records taken from the log at a time."""

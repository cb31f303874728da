"""What the rank service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.runtime.mesh import MeshSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of rank_svc; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    model_path: str = ""
    """An ONNX model over foundation.features.FEATURES; empty: the rule-based score of seed section 2.4."""
    recency_weight: float = 0.5
    """Of the rule-based score."""
    engagement_weight: float = 0.3
    """Of the rule-based score."""
    affinity_weight: float = 0.2
    """Of the rule-based score."""
    cache_rows: int = 500_000
    """Posts whose features are kept in the process; about 200 bytes each."""
    recommendations: bool = True
    """Whether posts of people whom a viewer does not follow are looked for; feed_svc has the same setting."""

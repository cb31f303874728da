"""What the graph service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.model.tiers import PULL_FROM, SUPER_FROM
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.settings import SettingsInvalid
from graph_svc.model import Borders


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of graph_svc; see foundation.runtime.settings for how the environment names them."""

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    database_url: str = "sqlite:///graph.db"
    """Where users and edges live: sqlite:///FILE, postgresql+psycopg://… or cassandra://host:port,…/keyspace."""
    cursor_key: str = ""
    """32 bytes in hex that seal list cursors. Required."""
    follow_limit: int = 7_500
    """Most accounts that one user may follow."""
    tier_pull_from: int = PULL_FROM
    """Followers from which an author is pulled; below 90 % of it pushed again."""
    tier_super_from: int = SUPER_FROM
    """Followers from which an author is SUPER; below 90 % of it no more."""
    tier_down_for_s: int = 7 * 86_400 + 7_200
    """How long an author who goes down is both pushed and pulled: what was written before must be older than feeds
    reach, which is 7 days, and a writer may know an older tier for an hour and a minute."""
    tier_job_every_s: float = 5.0
    """How often crossings are taken up."""

    def __post_init__(self) -> None:
        """Raises SettingsInvalid naming every fault."""
        faults = []
        if self.tier_pull_from < 1:
            faults.append(f"FEEDMESH_TIER_PULL_FROM={self.tier_pull_from}: must be 1 or more")
        if self.tier_super_from <= self.tier_pull_from:
            faults.append(
                f"FEEDMESH_TIER_SUPER_FROM={self.tier_super_from}: must be more than"
                f" FEEDMESH_TIER_PULL_FROM={self.tier_pull_from}"
            )
        if self.tier_down_for_s < 0:
            faults.append(f"FEEDMESH_TIER_DOWN_FOR_S={self.tier_down_for_s}: must not be negative")
        if self.tier_job_every_s <= 0:
            faults.append(f"FEEDMESH_TIER_JOB_EVERY_S={self.tier_job_every_s}: must be more than 0")
        if faults:
            raise SettingsInvalid("wrong settings:\n  " + "\n  ".join(faults))

    def borders(self) -> Borders:
        """Where authors change tiers."""
        return Borders(
            pull_from=self.tier_pull_from,
            super_from=self.tier_super_from,
            down_for_ms=self.tier_down_for_s * 1_000,
        )

"""What the fan-out worker can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from fanout_worker.model import Level
from fanout_worker.stages.policy import Policy, PolicyName
from foundation.model.tiers import PULL_FROM
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.settings import SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of fanout_worker; see foundation.runtime.settings for how the environment names them.

    Raises SettingsInvalid when they contradict each other.
    """

    mesh: MeshSettings = field(default_factory=MeshSettings)
    """Addresses and keys that all services share."""
    max_records: int = 500
    """Records taken from the log at a time."""
    max_chunks: int = 64
    """Chunks taken from the log at a time: up to 1,000 followers each."""
    fanout_policy: PolicyName = "hybrid"
    """Who is pushed. hybrid: up to `pull_from` followers; rate_limited: up to `rate_limited_up_to`, those from
    `pull_from` on under the limit; push_only: all; pull_only: those whom nobody can pull yet."""
    inline_up_to: int = 1_000
    """Followers up to which a post is delivered at once, without going through the queue."""
    pull_from: int = PULL_FROM
    """Followers from which an author that can be pulled is not pushed (hybrid) or under the limit (rate_limited)."""
    rate_limited_up_to: int = 100_000
    """Followers from which the policy rate_limited pushes an author no more."""
    rate_limit_per_s: int = 100_000
    """Updates a second that all workers together spend on rate-limited pushes."""
    pressure_every_s: float = 1.0
    """How often a worker tells how far behind it is, and looks what the group does about it."""
    highest_level_by_lag: int = 3
    """The level that lag alone may lead to, 0-3; an operator may go higher."""

    def __post_init__(self) -> None:
        faults = self.policy().faults()
        faults += [
            f"{name}={getattr(self, name)}: must be 1 or more"
            for name in ("rate_limit_per_s", "max_records", "max_chunks")
            if getattr(self, name) < 1
        ]
        if self.highest_level_by_lag not in list(Level):
            faults.append(f"highest_level_by_lag={self.highest_level_by_lag}: must be 0 to 3")
        if faults:
            raise SettingsInvalid("wrong settings:\n  " + "\n  ".join(faults))

    def policy(self) -> Policy:
        """Who is pushed, and how."""
        return Policy(
            name=self.fanout_policy,
            inline_up_to=self.inline_up_to,
            pull_from=self.pull_from,
            rate_limited_up_to=self.rate_limited_up_to,
        )

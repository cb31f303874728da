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
    audit_every_nth: int = 100
    """Of the posts, every how many one is looked for in feeds after it was acknowledged; 0: none."""
    audit_per_s: float = 2.0
    """Posts that a worker takes for that a second, at most."""
    audit_first_s: float = 5.0
    """How long after it was made a post is looked for first."""
    audit_second_s: float = 60.0
    """How long after it was made it is looked for again."""
    audit_third_s: float = 600.0
    """How long after it was made it is looked for once more, and never again."""

    def __post_init__(self) -> None:
        faults = self.policy().faults()
        faults += [
            f"{name}={getattr(self, name)}: must be 1 or more"
            for name in ("rate_limit_per_s", "max_records", "max_chunks")
            if getattr(self, name) < 1
        ]
        if self.audit_every_nth < 0:
            faults.append(f"audit_every_nth={self.audit_every_nth}: must be 0 or more")
        if self.audit_per_s <= 0:
            faults.append(f"audit_per_s={self.audit_per_s}: must be above 0")
        looks = self.audit_windows_s()
        if not 0 < looks[0] < looks[1] < looks[2]:
            faults.append("audit_first_s, audit_second_s, audit_third_s={:g}, {:g}, {:g}: must ascend".format(*looks))
        if self.highest_level_by_lag not in list(Level):
            faults.append(f"highest_level_by_lag={self.highest_level_by_lag}: must be 0 to 3")
        if faults:
            raise SettingsInvalid("wrong settings:\n  " + "\n  ".join(faults))

    def audit_windows_s(self) -> tuple[float, float, float]:
        """When a post is looked for."""
        return self.audit_first_s, self.audit_second_s, self.audit_third_s

    def policy(self) -> Policy:
        """Who is pushed, and how."""
        return Policy(
            name=self.fanout_policy,
            inline_up_to=self.inline_up_to,
            pull_from=self.pull_from,
            rate_limited_up_to=self.rate_limited_up_to,
        )

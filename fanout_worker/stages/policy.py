"""Whether a post is pushed, and how: decided from its author's tier and followers and the level of pressure alone.

Pushing is always right: whoever is pulled as well finds a post once. Pulling is right only where the event's tier says
that every follower's viewer record names the author among the pulled: tiers PULL and SUPER.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fanout_worker.model import Decision, Level, NewPost, Route
from foundation.model.tiers import PULL_FROM, Tier

PolicyName = Literal["hybrid", "rate_limited", "push_only", "pull_only"]
LARGE_FROM = 1_001
"""Followers from which posts have a consumer of their own, so that they hold up no others. A constant, and not a
setting, because both consumers must agree on it, also while workers are replaced one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where the borders between the routes are."""

    name: PolicyName = "hybrid"
    inline_up_to: int = 1_000
    """Followers up to which a post is delivered at once."""
    pull_from: int = PULL_FROM
    """Followers from which an author is not pushed, or only under the limit."""
    rate_limited_up_to: int = 100_000
    """Followers up to which the policy rate_limited pushes authors that could be pulled."""

    def faults(self) -> list[str]:
        """What is wrong with these borders, for whoever set them; empty when nothing is."""
        faults = []
        if self.inline_up_to < 1:
            faults.append(f"inline_up_to={self.inline_up_to}: must be 1 or more")
        if self.pull_from <= self.inline_up_to:
            faults.append(f"pull_from={self.pull_from}: must be above inline_up_to={self.inline_up_to}")
        if self.rate_limited_up_to < self.pull_from:
            faults.append(f"rate_limited_up_to={self.rate_limited_up_to}: must not be below pull_from={self.pull_from}")
        return faults

    def decide(self, post: NewPost, level: Level = Level.NORMAL) -> Decision:
        """The route of *post* at this *level*."""
        decision = self._decide(post)
        if level >= Level.PULL_ALL and decision.route is not Route.PULL:
            return Decision(Route.GAP, f"level {level:d}; else {decision.route}")
        return decision

    def _decide(self, post: NewPost) -> Decision:
        followers = post.followers
        if post.tier in (Tier.PULL, Tier.SUPER):
            if self.name == "pull_only":
                return Decision(Route.PULL, f"tier {post.tier.name}, pull_only")
            if self.name != "push_only":
                if not followers:
                    return Decision(Route.PULL, f"tier {post.tier.name}")
                border = self.rate_limited_up_to if self.name == "rate_limited" else self.pull_from
                if followers >= border:
                    return Decision(Route.PULL, f"tier {post.tier.name}, {followers} followers of {border} or more")
        if self.name == "rate_limited" and followers >= self.pull_from:
            return Decision(Route.RATE_LIMITED, f"{followers} followers of {self.pull_from} or more, rate_limited")
        if followers > self.inline_up_to:
            return Decision(Route.CHUNKS, f"{followers} followers, more than {self.inline_up_to}")
        if followers:
            return Decision(Route.INLINE, f"{followers} followers, at most {self.inline_up_to}")
        return Decision(Route.INLINE, "followers not known; more than one page goes out in chunks")


def is_large(post: NewPost) -> bool:
    """Whether the consumer of large authors' posts takes it, and the other one does not."""
    return post.followers >= LARGE_FROM

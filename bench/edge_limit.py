"""The edge allows each user so many requests a minute: which runs stay below it, and what to say of others."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from bench.loadgen import WARMUP_S, busiest
from feedmesh_cli.edge import EdgeSettings
from feedmesh_cli.failures import CliError, ExitCode

ALLOWED = EdgeSettings.user_requests_per_minute
USED = 0.9
"""Part of it that runs use: feeds are read before they are measured, and rates vary."""
MINUTE_S = 60.0


class Minute:
    """What the most active user has sent in runs of the last minute, at most."""

    def __init__(self) -> None:
        self._runs: deque[tuple[float, int]] = deque()

    def ended(self, now_s: float, sent: int) -> None:
        """A run ended now in which nobody sent more than *sent*."""
        self._runs.append((now_s, sent))

    def wait_s(self, now_s: float, sent: int) -> float:
        """How long a run in which nobody sends more than *sent* has to wait; *sent* alone fits the limit."""
        used = sent + sum(of_one for _, of_one in self._runs)
        wait_s = 0.0
        for ended_s, of_one in self._runs:
            if used <= USED * ALLOWED:
                break
            used -= of_one
            wait_s = ended_s + MINUTE_S - now_s
        return max(0.0, wait_s)


def most_seconds(users: int, rate: float) -> int:
    """The longest that *users* may be measured at *rate* requests a second, all of them, before one is refused."""
    seconds = 0
    while busiest(int(rate * (seconds + 1 + WARMUP_S)), users) <= USED * ALLOWED:
        seconds += 1
    return seconds


def require_seconds(seconds: float, *, users: int, rate: float) -> None:
    """Raises CliError (exit 2) when a run of *seconds* at *rate* requests a second would meet the edge's limit."""
    most = most_seconds(users, rate)
    if seconds > most:
        raise CliError(
            f"--seconds {seconds:g} is too long: at {rate:,.0f} requests a second one of {users} users could meet "
            f"{_limit(ALLOWED)}",
            cause="few users take turns, so that each sends many requests",
            next_step=f"--seconds {most} is the most",
            code=ExitCode.USAGE,
        )


def require_none_refused(result: Mapping[str, Any]) -> None:
    """Raises CliError when the edge refused requests of this run of the generator, which measures nothing then."""
    if result["edge_limit"]:
        raise CliError(
            f"{result['rejected']} requests were refused by {_limit(result['edge_limit'])}: nothing is measured",
            cause=f"the most active user sent {result['busiest']} of {result['sent']} requests in this run alone",
            next_step="fewer --seconds, or more --readers where the benchmark takes them",
        )


def _limit(requests: int) -> str:
    return f"the edge's limit of {requests:,} a minute per user"

"""The last complaint of each process, for errors whose reason only its log knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from feedmesh_cli.children import tail

LOOKED_AT = 200
"""Last lines of each log."""
_BAD = frozenset({"warning", "error", "critical"})
_SAID_ELSEWHERE = frozenset({"event", "level", "timestamp", "exception"})


def complaints(logs: Path) -> str:
    """A line for each log below *logs* whose last lines hold a warning or an error: the newest of them."""
    lines: list[str] = []
    for log in sorted(logs.glob("*.log")):
        entries = [entry for line in tail(log, LOOKED_AT).splitlines() if (entry := _entry(line))["level"] in _BAD]
        if entries:
            last = entries[-1]
            more = [f"{name}={value}" for name, value in last.items() if name not in _SAID_ELSEWHERE]
            raised = str(last.get("exception", "")).strip().splitlines()[-1:]
            lines.append(" ".join([f"{log.name}:", last["timestamp"], last["event"], *more, *raised]))
    return "\n".join(lines)


def _entry(line: str) -> dict[str, Any]:
    """A line of a log as data; of no level where it is no such line."""
    try:
        entry = json.loads(line)
    except ValueError:  # another program's, or the first of those looked at, cut
        entry = None
    return {"level": "", "event": "", "timestamp": "", **(entry if isinstance(entry, dict) else {})}

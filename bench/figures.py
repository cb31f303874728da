"""Figures: what a benchmark prints, always beside its ceiling from the same run."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure."""

    name: str
    value: float
    unit: str
    ceiling: float | None = None
    """The same unit, measured in the same run; None where there is none."""
    share: float | None = None
    """value / ceiling; the median of the turns where there were several."""


def figure(name: str, value: float, unit: str, *, ceiling: float | None = None, share: float | None = None) -> Figure:
    """A figure, rounded, with its share, which is reckoned where it was not measured."""
    if ceiling:
        share = round(share or value / ceiling, 3)
    return Figure(name=name, value=round(value, 3), unit=unit, ceiling=ceiling and round(ceiling, 1), share=share)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures of one unit that belong side by side."""

    title: str
    unit: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """Row to column to figure; all rows have the same columns."""

    def as_text(self) -> str:
        """As a person reads it."""
        columns = list(next(iter(self.rows.values()), {}))
        widest = max(map(len, self.rows), default=0)
        lines = [f"{self.title} ({self.unit})", " " * (widest + 2) + "".join(f"{name:>15}" for name in columns)]
        lines += [
            f"  {name:{widest}}" + "".join(f"{row[column]:15,.0f}" for column in columns)
            for name, row in self.rows.items()
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run."""

    command: str
    figures: list[Figure]
    tables: list[Table] = field(default_factory=list)
    commit: str = field(default_factory=lambda: commit())
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    def as_json(self) -> str:
        """One object."""
        return json.dumps(asdict(self), indent=2)


def commit() -> str:
    """The commit that was measured, marked when the tree differs from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }

"""What a run of the nemesis saw, as a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.nemesis.load import History


@dataclass
class Line:
    """One fault."""

    fault: str
    history: History
    healthy_s: float
    complete_s: float | None
    """None: feeds were not complete in time."""


@dataclass
class Report:
    """One run."""

    lines: list[Line] = field(default_factory=list)

    def as_text(self) -> str:
        rows = [
            (
                "| fault | acknowledged | answers without a verdict | slowest post | reads failed / degraded / all"
                " | all parts run after | every feed exact after |"
            ),
            "|---|---|---|---|---|---|---|",
        ]
        for line in self.lines:
            seen = line.history
            complete = f"{line.complete_s:.1f} s" if line.complete_s is not None else "**never**"
            rows.append(
                f"| {line.fault} | {seen.acknowledged} | {seen.unknown} | {seen.longest_s:.1f} s"
                f" | {seen.failed_reads} / {seen.degraded_reads} / {seen.reads}"
                f" | {line.healthy_s:.1f} s | {complete} |"
            )
        return "\n".join(rows) + "\n"

    def write(self, path: str | None) -> None:
        """Print, and write to *path* where one is named."""
        print("\n" + self.as_text())
        if path:
            Path(path).write_text(self.as_text(), encoding="utf-8")

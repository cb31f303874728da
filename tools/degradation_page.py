"""docs/degradation.md from feed_svc/degradation.py: `python tools/degradation_page.py`; a test keeps them equal."""

from __future__ import annotations

from pathlib import Path

from feed_svc.degradation import ALL, ANSWER_WITHIN_MS, TABLE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "degradation.md"


def page() -> str:
    """The document."""
    lines = [
        "# What a feed does without each of its dependencies",
        "Made from `feed_svc/degradation.py`, walked by `tests/system/test_degraded_walk.py`. An answer comes within",
        f"{ANSWER_WITHIN_MS} ms;",
        "what could not be checked is not shown; nothing is said where nothing was skipped.",
        "",
        "| without | when | failing how | instead | said | waits |",
        "|---|---|---|---|---|---|",
    ]
    for row in TABLE:
        ways = "any" if row.ways == ALL else ", ".join(way.value for way in row.ways)
        said = row.reason.name if row.reason is not None else (row.error and f"error {row.error}") or "NORMAL"
        lines.append(f"| {row.dependency.value} | {row.when} | {ways} | {row.fallback} | {said} | {row.waits_ms} ms |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

"""How a command fails: what failed, where, the likely cause, what to do next, and an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What scripts can tell apart."""

    OK = 0
    FAILURE = 1
    """The command could not do what it was asked."""
    USAGE = 2
    """The command line is wrong."""
    UNHEALTHY = 3
    """The mesh is not running, not ready in time, or lost a part."""


class CliError(Exception):
    """A failure told in four parts; `main` prints it and exits with its code."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        cause: str = "",
        next_step: str = "",
        code: ExitCode = ExitCode.FAILURE,
        detail: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cause = cause
        self.next_step = next_step
        self.code = code
        self.detail = detail
        """Lines of a log, or what a service answered."""

    def as_data(self) -> dict[str, str | int]:
        """For --json."""
        parts = {
            "error": self.what,
            "where": self.where,
            "cause": self.cause,
            "next": self.next_step,
            "detail": self.detail,
        }
        return {**{name: text for name, text in parts.items() if text}, "exit_code": int(self.code)}

    def as_text(self) -> str:
        """For people, one part a line."""
        lines = [f"error: {self.what}"]
        for label, text in (("where", self.where), ("cause", self.cause), ("next ", self.next_step)):
            if text:
                lines.append(f"  {label}  {text}")
        if self.detail:
            lines += ["", *(f"  | {line}" for line in self.detail.splitlines())]
        return "\n".join(lines)

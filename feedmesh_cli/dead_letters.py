"""The dead letters of a mesh: list, show, try again, put away.

The log is append-only, so what was decided about a dead letter is a record too: it names the letter it settles, who
decided, and why. A letter is open until there is one.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.log_access import as_data, log_of, read_all
from feedmesh_cli.mesh_file import Mesh
from foundation.events.port import DEAD_LETTERS, RETRY_5S, Event, EventLog, Record
from foundation.events.retries import ATTEMPTS, ERROR_CLASS, ORIGIN_OFFSET, ORIGIN_TOPIC, group_of

SETTLES = "x-settles"
ACTION = "x-action"
BY = "x-by"
REASON = "x-reason"
REDRIVEN = "x-redriven"


@dataclass(frozen=True)
class Letter:
    """One dead letter."""

    id: str
    """partition:offset in the dead letters."""
    record: Record
    settled: str
    """How it was settled; empty while it is open."""

    def as_data(self) -> dict[str, Any]:
        """For --json and tables."""
        headers = self.record.headers
        return {
            "id": self.id,
            "group": group_of(self.record),
            "topic": headers.get(ORIGIN_TOPIC, ""),
            "offset": headers.get(ORIGIN_OFFSET, ""),
            "error": headers.get(ERROR_CLASS, ""),
            "attempts": headers.get(ATTEMPTS, ""),
            "key": str(self.record.key),
            "timestamp_ms": self.record.timestamp_ms,
            "settled": self.settled,
        }

    def as_text(self) -> str:
        """One line."""
        told = self.as_data()
        return (
            f"{told['id']:>8}  {told['group']:<16} {told['topic']:<18} {told['error']:<24}"
            f" tried {told['attempts']}  key {told['key']}  {told['settled']}"
        )


async def list_letters(mesh: Mesh, *, every: bool) -> list[Letter]:
    """The open dead letters, or *every* one."""
    async with log_of(mesh) as log:
        return [letter for letter in await _letters(log) if every or not letter.settled]


async def show_letter(mesh: Mesh, letter_id: str) -> dict[str, Any]:
    """Everything about one letter. Raises CliError."""
    async with log_of(mesh) as log:
        (letter,) = _chosen(await _letters(log), [letter_id], error="")
    return {**letter.as_data(), "record": as_data(letter.record, decoded=True)}


async def redrive(mesh: Mesh, letter_ids: Sequence[str], *, error: str, rate: float, dry_run: bool) -> list[Letter]:
    """Send open letters to the shortest retry tier with their attempts forgotten, at most *rate* a second."""
    async with log_of(mesh) as log:
        chosen = [letter for letter in _chosen(await _letters(log), letter_ids, error=error) if not letter.settled]
        for letter in chosen if not dry_run else ():
            headers = {**letter.record.headers, ATTEMPTS: "0", REDRIVEN: letter.id}
            await log.append([Event(RETRY_5S, letter.record.key, letter.record.value, headers)])
            await log.append([_settlement(letter, "redriven", "")])
            await asyncio.sleep(1 / rate)
    return chosen


async def discard(mesh: Mesh, letter_ids: Sequence[str], *, error: str, reason: str) -> list[Letter]:
    """Settle open letters without trying them again."""
    async with log_of(mesh) as log:
        chosen = [letter for letter in _chosen(await _letters(log), letter_ids, error=error) if not letter.settled]
        await log.append([_settlement(letter, "discarded", reason) for letter in chosen])
    return chosen


async def _letters(log: EventLog) -> list[Letter]:
    records: list[Record] = []
    settled: dict[str, str] = {}
    async for record in read_all(log, [DEAD_LETTERS]):
        if SETTLES in record.headers:
            told = record.headers
            reason = f": {told[REASON]}" if told.get(REASON) else ""
            settled[told[SETTLES]] = f"{told.get(ACTION, '')} by {told.get(BY, '')}{reason}"
        else:
            records.append(record)
    named = [(f"{record.partition}:{record.offset}", record) for record in records]
    return [Letter(name, record, settled.get(name, "")) for name, record in named]


def _chosen(letters: Sequence[Letter], letter_ids: Sequence[str], *, error: str) -> list[Letter]:
    by_id = {letter.id: letter for letter in letters}
    unknown = [name for name in letter_ids if name not in by_id]
    if unknown:
        raise CliError(
            f"there is no dead letter {unknown[0]!r}",
            cause=f"{len(letters)} are there",
            next_step="feedmesh dlq ls",
            code=ExitCode.USAGE,
        )
    if letter_ids:
        return [by_id[name] for name in letter_ids]
    return [letter for letter in letters if letter.record.headers.get(ERROR_CLASS) == error]


def _settlement(letter: Letter, action: str, reason: str) -> Event:
    headers = {SETTLES: letter.id, ACTION: action, BY: getpass.getuser(), REASON: reason}
    return Event(DEAD_LETTERS, letter.record.key, b"", headers)

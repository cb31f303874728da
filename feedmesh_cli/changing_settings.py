"""`feedmesh up --set NAME=VALUE`: which settings there are, checked before anything is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import fanout_worker.settings
import feed_svc.settings
import graph_svc.settings
import post_svc.settings
import rank_svc.settings
from feedmesh_cli.failures import CliError, ExitCode
from foundation.runtime.settings import PREFIX, SettingsInvalid, changed

SETTINGS: Sequence[type[Any]] = (
    graph_svc.settings.Settings,
    post_svc.settings.Settings,
    rank_svc.settings.Settings,
    fanout_worker.settings.Settings,
    feed_svc.settings.Settings,
)
OF_THE_MESH = frozenset({"mesh", "database_url", "cursor_key", "model_path", "recommendations"})
"""What `up` decides itself, or has an option for."""


def read_changes(assignments: Sequence[str]) -> Mapping[str, str]:
    """FEEDMESH_<NAME> to value. Raises CliError for what no service has, and for values that none can use."""
    known = set(_names())
    changes: dict[str, str] = {}
    for assignment in assignments:
        name, is_there, value = assignment.partition("=")
        name = name.strip().lower()
        if not is_there or name not in known:
            near = get_close_matches(name, known, n=1) or ["pull_from"]
            raise CliError(
                f"no setting is called {name!r}" if is_there else f"--set {assignment} names no value",
                cause=f"settings that can be set: {', '.join(sorted(known))}",
                next_step=f"feedmesh up --set {near[0]}={value or '…'}",
                code=ExitCode.USAGE,
            )
        changes[PREFIX + name.upper()] = value
    for settings in SETTINGS:
        try:
            changed(settings(), changes)
        except SettingsInvalid as invalid:
            raise CliError(
                "settings that cannot be used", cause=str(invalid), next_step="feedmesh up --help", code=ExitCode.USAGE
            ) from None
    return changes


def _names() -> Iterator[str]:
    for settings in SETTINGS:
        for one in dataclasses.fields(settings):
            if one.name not in OF_THE_MESH:
                yield one.name

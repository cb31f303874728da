"""Settings from the environment: the only place that reads it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

PREFIX = "FEEDMESH_"


class SettingsInvalid(Exception):
    """Values that cannot be used; the message lists every fault."""


def from_environment(settings_type: type[T], environment: Mapping[str, str] | None = None) -> T:
    """An instance of the dataclass *settings_type*: its defaults, overridden by FEEDMESH_<FIELD>.

    A field that is a dataclass itself is filled from the same environment. Raises SettingsInvalid naming every fault.
    """
    faults: list[str] = []
    made = _read(settings_type, os.environ if environment is None else environment, faults)
    if faults:
        raise SettingsInvalid("wrong settings:\n  " + "\n  ".join(faults))
    return made


def to_environment(settings: object) -> dict[str, str]:
    """The inverse of from_environment: what a process needs in its environment to be told *settings*."""
    told: dict[str, str] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            told |= to_environment(value)
        else:
            told[PREFIX + field.name.upper()] = str(value)
    return told


def changed(settings: T, changes: Mapping[str, str]) -> T:
    """*settings*, overridden by those of the FEEDMESH_<FIELD> in *changes* that they have.

    Raises SettingsInvalid naming every fault.
    """
    return from_environment(type(settings), {**to_environment(settings), **changes}) if changes else settings


def inherited_environment() -> dict[str, str]:
    """This process's environment without settings of ours: a child is told its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _read(settings_type: type[T], environment: Mapping[str, str], faults: list[str]) -> T:
    hints = get_type_hints(settings_type)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings_type):  # type: ignore[arg-type]
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            values[field.name] = _read(hint, environment, faults)
            continue
        name = PREFIX + field.name.upper()
        text = environment.get(name)
        if text is not None:
            try:
                values[field.name] = _parsed(hint, text)
            except ValueError as exc:
                faults.append(f"{name}={text!r}: {exc}")
    return settings_type(**values)


def _parsed(hint: Any, text: str) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"must be one of {', '.join(get_args(hint))}")
        return text
    if hint is bool:
        if text.lower() not in ("0", "1", "false", "true"):
            raise ValueError("must be 0, 1, false or true")
        return text.lower() in ("1", "true")
    if hint in (int, float, str, Path):
        return hint(text)
    raise ValueError(f"has a type that no text stands for: {hint}")

"""Lua scripts: files beside the code that runs them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(slots=True, frozen=True)
class Script:
    """A script and the name that the server knows it by."""

    name: str
    source: bytes
    sha: str


def load_script(package: str, name: str) -> Script:
    """The script lua/<name>.lua of *package*."""
    source = resources.files(package).joinpath("lua", f"{name}.lua").read_bytes()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())

"""Lua scripts: files beside the code that runs them.

Every script here takes `#common, the common arguments, then the items one after the other`, keys among the arguments
(`#!lua flags=allow-cross-slot-keys`), runs single-key commands only, and answers one status per item.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

Argument = str | bytes | int


@dataclass(slots=True, frozen=True)
class Script:
    """A script and the name that the server knows it by."""

    name: str
    source: bytes
    sha: str

    def on(self, item: tuple[Argument, ...], common: tuple[Argument, ...] = ()) -> tuple[Argument, ...]:
        """The command that runs it on one *item*, its key declared: it is routed, redirected and pipelined as any.

        Its reply is a list of one status.
        """
        return ("EVALSHA", self.sha, 1, item[0], len(common), *common, *item)


_loaded: dict[str, Script] = {}


def load_script(package: str, name: str, *, library: str = "") -> Script:
    """The script lua/<name>.lua of *package*; what lua/<library>.lua defines is known in it."""
    folder = resources.files(package).joinpath("lua")
    source = folder.joinpath(f"{name}.lua").read_bytes()
    if library:
        flags, _, body = source.partition(b"\n")
        source = b"\n".join((flags, folder.joinpath(f"{library}.lua").read_bytes(), body))
    script = Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())
    _loaded[script.sha] = script
    return script


def loaded_script(sha: str) -> Script | None:
    """The script of that name, if this process loaded it: a server that restarted has forgotten them all."""
    return _loaded.get(sha)

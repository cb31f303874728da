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
    """A script and the names that the server knows it by. Made by make_script."""

    name: str
    source: bytes
    sha: str
    """Its name for many items with keys of several slots."""
    alone_sha: str
    """Its name for one item whose key is declared: without the flags, which servers before Redis 7 cannot read."""

    def on(self, item: tuple[Argument, ...], common: tuple[Argument, ...] = ()) -> tuple[Argument, ...]:
        """The command that runs it on one *item*, its key declared: it is routed, redirected and pipelined as any.

        Its reply is a list of one status.
        """
        return self.by_key(item[0], item, common)

    def by_key(
        self, key: Argument, arguments: tuple[Argument, ...], common: tuple[Argument, ...]
    ) -> tuple[Argument, ...]:
        """Like on, for a script that makes its key of its *arguments*. Its reply is the script's whole answer."""
        return ("EVALSHA", self.alone_sha, 1, key, len(common), *common, *arguments)


_sources: dict[str, bytes] = {}


def make_script(name: str, source: bytes) -> Script:
    """The script of that *source*, which begins with its flags."""
    flags, _, body = source.partition(b"\n")
    if not flags.startswith(b"#!lua "):
        raise ValueError(f"script {name} does not begin with its flags")
    alone = b"\n" + body  # errors name the same lines
    script = Script(name, source, _sha(source), _sha(alone))
    _sources[script.sha] = source
    _sources[script.alone_sha] = alone
    return script


def load_script(package: str, name: str, *, library: str = "") -> Script:
    """The script lua/<name>.lua of *package*; what lua/<library>.lua defines is known in it."""
    folder = resources.files(package).joinpath("lua")
    source = folder.joinpath(f"{name}.lua").read_bytes()
    if library:
        flags, _, body = source.partition(b"\n")
        source = b"\n".join((flags, folder.joinpath(f"{library}.lua").read_bytes(), body))
    return make_script(name, source)


def source_of(sha: str) -> bytes | None:
    """The source of that name, if this process made it: a server that restarted has forgotten them all."""
    return _sources.get(sha)


def _sha(source: bytes) -> str:
    return hashlib.sha1(source, usedforsecurity=False).hexdigest()

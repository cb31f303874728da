"""Reads a graph as an edge list: two node names a line, whatever else follows them; lines with # or % are comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from feedmesh_cli.failures import CliError


@dataclass(frozen=True)
class EdgeList:
    """Who follows whom, with every node named once."""

    nodes: tuple[int, ...]
    """In ascending order."""
    follows: tuple[tuple[int, int], ...]
    """(follower, followee), each pair once, in ascending order."""

    @property
    def usernames(self) -> list[str]:
        """Node 7 is the user n7."""
        return [f"n{node}" for node in self.nodes]


def read_edge_list(path: Path, *, directed: bool) -> EdgeList:
    """The graph in *path*. Undirected edges become follows both ways; self-loops are dropped."""
    try:
        with path.open(encoding="utf-8") as lines:
            pairs = set(_pairs(lines, path))
    except (OSError, UnicodeDecodeError) as fault:
        raise CliError(
            f"cannot read the edge list: {fault}",
            where=str(path),
            next_step="give a text file with two node numbers a line",
        ) from fault
    if not pairs:
        raise CliError("the edge list has no edges", where=str(path), next_step='write one edge a line: "1 2"')
    nodes = {node for pair in pairs for node in pair}
    follows = {pair for pair in pairs if pair[0] != pair[1]}
    if not directed:
        follows |= {(followee, follower) for follower, followee in follows}
    return EdgeList(nodes=tuple(sorted(nodes)), follows=tuple(sorted(follows)))


def _pairs(lines: Iterable[str], path: Path) -> Iterator[tuple[int, int]]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text[0] in "#%":
            continue
        parts = text.replace(",", " ").split()
        try:
            follower, followee = int(parts[0]), int(parts[1])
            if follower < 0 or followee < 0:
                raise ValueError
        except (ValueError, IndexError):
            raise CliError(
                f"line {number} is not an edge: {text[:60]!r}",
                where=f"{path}:{number}",
                cause='an edge is two node numbers, 0 or above: "1 2"',
                next_step="correct the line, or start it with # to leave it out",
            ) from None
        yield follower, followee

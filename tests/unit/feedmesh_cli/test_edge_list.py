"""Reading graphs from files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedmesh_cli.edge_list import read_edge_list
from feedmesh_cli.failures import CliError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "graph.edges"
    path.write_text(text)
    return path


def test_an_undirected_edge_is_two_follows(tmp_path: Path) -> None:
    graph = read_edge_list(written(tmp_path, "1 0\n"), directed=False)
    assert graph.follows == ((0, 1), (1, 0))
    assert graph.usernames == ["n0", "n1"]


def test_a_directed_edge_is_one_follow(tmp_path: Path) -> None:
    assert read_edge_list(written(tmp_path, "1 0\n"), directed=True).follows == ((1, 0),)


def test_comments_blank_lines_weights_and_commas_are_understood(tmp_path: Path) -> None:
    text = "% a matrix market head\n# and another\n\n3 5 0.25\n7,3\n"
    assert read_edge_list(written(tmp_path, text), directed=True).follows == ((3, 5), (7, 3))


def test_duplicates_count_once_and_self_loops_only_name_their_node(tmp_path: Path) -> None:
    graph = read_edge_list(written(tmp_path, "1 2\n2 1\n1 2\n9 9\n"), directed=False)
    assert graph.follows == ((1, 2), (2, 1))
    assert graph.nodes == (1, 2, 9)


@pytest.mark.parametrize(("text", "line"), [("1 2\nx y\n", 2), ("5\n", 1), ("-1 2\n", 1)])
def test_a_line_that_is_no_edge_is_named(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(CliError) as failure:
        read_edge_list(written(tmp_path, text), directed=False)
    assert failure.value.where.endswith(f"graph.edges:{line}")
    assert failure.value.next_step


def test_a_file_without_edges_and_a_missing_file_are_failures(tmp_path: Path) -> None:
    for path in (written(tmp_path, "# nothing\n"), tmp_path / "absent"):
        with pytest.raises(CliError):
            read_edge_list(path, directed=False)


@given(st.sets(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_undirected_follows_are_symmetric_and_never_of_oneself(pairs: set[tuple[int, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = written(Path(directory), "".join(f"{a} {b}\n" for a, b in pairs))
        graph = read_edge_list(path, directed=False)
    follows = set(graph.follows)
    assert follows == {(b, a) for a, b in follows}
    assert follows == {(a, b) for a, b in pairs if a != b} | {(b, a) for a, b in pairs if a != b}
    assert all(a != b for a, b in follows)

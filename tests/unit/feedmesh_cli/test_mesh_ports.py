"""Choosing ports."""

import os
import socket
from collections.abc import Iterator
from dataclasses import astuple

import pytest

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.ports import PORTS_PER_MESH, MeshPorts, choose_ports, free_ports, holding, is_free


def free_base() -> int:
    for base in free_ports(100):
        if all(is_free(base + place) for place in range(2 * PORTS_PER_MESH)):
            return base
    raise AssertionError("no free ports")


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", free_base() + 3))
        server.listen()
        yield server


def test_ports_follow_their_base() -> None:
    base = free_base()
    assert astuple(choose_ports(base, MeshPorts)) == tuple(range(base, base + 9))


def test_ports_without_a_base_differ_and_are_free() -> None:
    ports = astuple(choose_ports(None, MeshPorts))
    assert len(set(ports)) == len(ports)
    assert all(is_free(port) for port in ports)


def test_ports_come_from_the_range_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDMESH_PORT_RANGE", "21000-21049")
    assert all(21_000 <= port <= 21_049 for port in astuple(choose_ports(None, MeshPorts)))
    with pytest.raises(CliError, match="no 51 free ports between 21000 and 21049"):
        free_ports(51)


@pytest.mark.parametrize("given", ["22000", "a-b", "23000-22000", "80-9000", "22000-70000"])
def test_a_range_that_is_none_is_wrong_usage(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDMESH_PORT_RANGE", given)
    with pytest.raises(CliError, match="is no range of ports") as failure:
        choose_ports(None, MeshPorts)
    assert failure.value.code == ExitCode.USAGE


def test_a_taken_port_is_told_with_its_holder_and_the_next_free_base(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(CliError) as failure:
        choose_ports(port - 3, MeshPorts)
    assert f"port {port} is taken" in str(failure.value)
    assert f"pid {os.getpid()}" in failure.value.cause
    offered = int(failure.value.next_step.rsplit(" ", 1)[1])
    assert astuple(choose_ports(offered, MeshPorts))


@pytest.mark.parametrize("base", [0, 80, 65_530, 70_000])
def test_a_base_out_of_range_is_wrong_usage(base: int) -> None:
    with pytest.raises(CliError) as failure:
        choose_ports(base, MeshPorts)
    assert failure.value.code == ExitCode.USAGE


def test_a_port_that_is_held_is_found_free_by_nobody_and_serves_who_shares_it() -> None:
    port = free_base()
    with holding(port):
        assert not is_free(port)
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            client.connect(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()
    assert is_free(port + 1)

"""The name under which a process leases: one that nobody else has while it lives, and that it has again afterwards.

A process that is started again gets its number back at once if its name tells that its predecessor has ended. So a name
is held while its process lives, as an abstract Unix socket: there is one of each name in a network namespace, and the
kernel lets go of it however the process ends. The address alone would not do: it is bound long after the lease is
taken, and every container may listen on the same one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.errors import Unavailable
from foundation.leases.port import Holder
from foundation.model.clock import Randomness

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = "/proc/self/ns/net"


@contextmanager
def holding_a_name(service: str, *, name: str, host: str, port: int, randomness: Randomness) -> Iterator[Holder]:
    """This life of *service*, named *name* or else by its address; by chance where neither tells it from others.

    Where *name* is given, whoever gives it vouches that it gives it to one process at a time. Raises
    Unavailable(ALREADY_RUNNING) when a process of this machine has the name.
    """
    life = randomness.token_bytes(16).hex()
    place = _network_of_this_kernel()
    if name:
        full = f"{service} of {name}"
    elif port and place:
        full = f"{service} at {host}:{port} ({place})"
    else:
        full = f"{service} {life}"
    with _held(full):
        yield Holder(full, life)


def _network_of_this_kernel() -> str:
    """Tells where an address can be bound once: the boot of a kernel and the network namespace. Empty: not known."""
    try:
        told = _BOOT_ID.read_text(encoding="ascii") + os.readlink(_NETWORK)  # noqa: PTH115 - it leads nowhere
    except OSError:
        return ""
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@contextmanager
def _held(name: str) -> Iterator[None]:
    if sys.platform != "linux":
        yield  # no such sockets: names by address are not used there, and a given name is vouched for
        return
    with socket.socket(socket.AF_UNIX) as held:
        try:
            held.bind(b"\0feedmesh-" + hashlib.sha256(name.encode()).hexdigest().encode())
        except OSError as failure:
            if failure.errno != errno.EADDRINUSE:
                raise
            raise Unavailable("ALREADY_RUNNING", f"there is a {name} on this machine: end it first") from None
        yield

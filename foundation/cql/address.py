"""Where a keyspace lives: cassandra://[user:password@]host[:port][,host[:port]…]/keyspace[?dc=…&replication=…&ca=…]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

SCHEME = "cassandra"
PORT = 9042
OPTIONS = ("dc", "replication", "ca")


@dataclass(frozen=True, kw_only=True)
class CqlAddress:
    """One keyspace of one cluster."""

    hosts: Sequence[tuple[str, int]]
    keyspace: str
    username: str = ""
    password: str = ""
    dc: str = "datacenter1"
    """The data centre whose replicas answer (LOCAL_QUORUM)."""
    replication: int = 1
    """Copies in that data centre, for a keyspace that is made."""
    ca: str = ""
    """A file of certificates to trust; with one, connections use TLS."""

    @classmethod
    def parse(cls, url: str) -> CqlAddress:
        """Raises ValueError naming the fault; never with the password in it."""
        parts = urlsplit(url)
        if parts.scheme != SCHEME:
            raise ValueError(f"a {SCHEME}:// address is needed, this is {parts.scheme or 'none'}")
        login, _, places = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        keyspace = parts.path.strip("/")
        if not keyspace.isidentifier():
            raise ValueError(f"{keyspace!r} is no name of a keyspace: {SCHEME}://host:port/keyspace")
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}: {', '.join(OPTIONS)}")
        return cls(
            hosts=[_place(place) for place in places.split(",")],
            keyspace=keyspace,
            username=unquote(username),
            password=unquote(password),
            dc=options.get("dc", cls.dc),
            replication=_positive(options.get("replication", "1")),
            ca=options.get("ca", ""),
        )

    @property
    def shown(self) -> str:
        """For messages: without the password."""
        return ",".join(f"{host}:{port}" for host, port in self.hosts) + f"/{self.keyspace}"


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(PORT)
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"replication={text!r} is no number of copies")
    return int(text)

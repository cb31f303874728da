"""Where the cluster is: host:port,… or redis[s]://[user:password@]host:port[,host:port…][?ca=…], rediss with TLS."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

PLAIN, TLS = "redis", "rediss"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to be let in by every node."""

    username: str = ""
    """Empty: the user `default`."""
    password: str = field(default="", repr=False)
    """Empty: no login."""
    tls: bool = False
    ca: str = ""
    """A file of certificates to trust instead of the machine's."""

    def login(self) -> tuple[str, ...]:
        """The command that logs in; empty where none is needed."""
        if not self.password:
            return ()
        return ("AUTH", self.username, self.password) if self.username else ("AUTH", self.password)

    def context(self) -> ssl.SSLContext | None:
        """What connections are made with; None without TLS. Raises OSError for a file of no certificates."""
        return ssl.create_default_context(cafile=self.ca or None) if self.tls else None


OPEN = Access()
"""No login, no TLS: nodes on loopback or behind a network that lets nobody else in."""


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """Nodes of one cluster; one is enough."""

    nodes: Sequence[tuple[str, int]]
    access: Access = OPEN

    @classmethod
    def parse(cls, text: str) -> RedisAddress:
        """Raises ValueError naming the fault; never with the password in it."""
        parts = urlsplit(text if "://" in text else f"{PLAIN}://{text}")
        if parts.scheme not in (PLAIN, TLS):
            raise ValueError(f"a {PLAIN}:// or {TLS}:// address is needed, this is {parts.scheme}")
        login, _, places = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        if unknown := sorted(set(options) - {"ca"}):
            raise ValueError(f"unknown option {unknown[0]!r}: ca")
        if options and parts.scheme != TLS:
            raise ValueError(f"ca is for {TLS}://")
        if username and not password:
            raise ValueError(f"user {unquote(username)!r} has no password")
        return cls(
            nodes=[_place(place.strip()) for place in places.split(",")],
            access=Access(
                username=unquote(username),
                password=unquote(password),
                tls=parts.scheme == TLS,
                ca=options.get("ca", ""),
            ),
        )

    @property
    def shown(self) -> str:
        """For messages: without the login."""
        return ",".join(f"{host}:{port}" for host, port in self.nodes)


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)

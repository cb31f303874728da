"""Where the event log lives: kafka://[user:password@]host:port[,host:port…][?security=…&mechanism=…&ca=…]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

SCHEME = "kafka"
_SETTINGS = {"security": "security.protocol", "mechanism": "sasl.mechanism", "ca": "ssl.ca.location"}


@dataclass(frozen=True, kw_only=True)
class KafkaAddress:
    """Brokers and how to be let in."""

    servers: str
    """host:port, separated by commas; one is enough."""
    security: Mapping[str, str] = field(default_factory=dict)
    """Settings of librdkafka."""

    @classmethod
    def parse(cls, url: str) -> KafkaAddress:
        """Raises ValueError naming the fault; never with the password in it."""
        parts = urlsplit(url)
        if parts.scheme != SCHEME:
            raise ValueError(f"a {SCHEME}:// address is needed, this is {parts.scheme or 'none'}")
        login, _, servers = parts.netloc.rpartition("@")
        for place in servers.split(","):
            host, _, port = place.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{place!r} is not host:port")
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        unknown = sorted(set(options) - set(_SETTINGS))
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}: {', '.join(_SETTINGS)}")
        security = {_SETTINGS[name]: value for name, value in options.items()}
        if login:
            username, _, password = login.partition(":")
            security |= {"sasl.username": unquote(username), "sasl.password": unquote(password)}
            security.setdefault("sasl.mechanism", "SCRAM-SHA-512")
            security.setdefault("security.protocol", "SASL_SSL" if "ssl.ca.location" in security else "SASL_PLAINTEXT")
        elif "ssl.ca.location" in security:
            security.setdefault("security.protocol", "SSL")
        return cls(servers=servers, security=security)

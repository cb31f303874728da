"""What the supervisor tells the process of the services, on its stdin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

SERVICES = ("graph_svc", "post_svc", "rank_svc", "fanout_worker", "feed_svc")
"""In the order they start."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedConfig:
    """Where the embedded services listen, keep their data and find each other."""

    data: str
    """Directory of the databases."""
    redis: str
    """Comma list of "host:port"."""
    ports: Mapping[str, int]
    """Service to port."""
    status_port: int
    """Port of /status and /metrics."""
    internal_key: str
    """Secret that services show each other."""
    cursor_key: str
    """32 bytes in hex."""
    jwks_path: str
    """Public keys of the token issuer."""
    engine: str
    """native or grpcio."""
    lease_name: str
    """Under which its services lease their worker numbers."""
    model_path: str
    """ONNX file that ranks; empty: the rule-based score."""
    recommendations: bool
    """Whether RANKED heads hold posts of people whom the viewer does not follow."""
    changes: Mapping[str, str]
    """Settings that are not to be as they are by default, by FEEDMESH_<NAME>."""

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> EmbeddedConfig:
        """The inverse."""
        return cls(**json.loads(line))

"""Where the services find each engine: one of our own, or one that is there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedmesh_cli.mesh_file import Mesh
    from feedmesh_cli.ports import ClusterPorts
    from feedmesh_cli.starting import UpOptions

KEYSPACES = {"graph_svc": "feedmesh_graph", "post_svc": "feedmesh_post", "feed_svc": "feedmesh_feed"}
"""Owner to keyspace."""


@dataclass(frozen=True, kw_only=True)
class EngineAddresses:
    """URLs of the engines."""

    cassandra: str
    """cassandra://[user:password@]host:port,…[?options], without a keyspace."""
    kafka: str
    """kafka://[user:password@]host:port,…[?options]."""
    redis: str
    """host:port,… or redis[s]://[user:password@]host:port,…[?ca=…]."""

    @classmethod
    def of(cls, options: UpOptions, ports: ClusterPorts) -> EngineAddresses:
        """Somebody else's where *options* name them, else our own on *ports*."""
        own = [f"127.0.0.1:{port}" for port in (ports.valkey, ports.valkey_2, ports.valkey_3)]
        return cls(
            cassandra=with_scheme("cassandra", options.cassandra or f"127.0.0.1:{ports.cassandra}"),
            kafka=with_scheme("kafka", options.kafka or f"127.0.0.1:{ports.kafka}"),
            redis=options.redis or ",".join(own),
        )

    @classmethod
    def running(cls, mesh: Mesh) -> EngineAddresses:
        """Those of a running mesh."""
        return cls(cassandra=mesh.engines["cassandra"], kafka=mesh.engines["kafka"], redis=mesh.redis)

    def store(self, service: str) -> str:
        """The URL of a service's keyspace."""
        place, question, options = self.cassandra.partition("?")
        return f"{place.rstrip('/')}/{KEYSPACES[service]}{question}{options}"


def with_scheme(scheme: str, text: str) -> str:
    """*text* as a URL: people leave the scheme out."""
    return text if text.startswith(f"{scheme}://") else f"{scheme}://{text}"

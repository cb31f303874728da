"""What all services of one mesh are told alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundation.leases.worker_lease import Claim
from foundation.model.clock import Clock
from foundation.model.ids import MAX_REGION, MAX_WORKER
from foundation.redis.address import RedisAddress
from foundation.redis.client import ScriptMode
from foundation.rpc.auth import Authenticator
from foundation.rpc.server import ServerSettings
from foundation.runtime.settings import SettingsInvalid

LONGEST_LEASE_NAME = 100


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Addresses and keys. In the environment each is FEEDMESH_ and its name in capitals."""

    redis: str = "127.0.0.1:7000"
    """The Valkey or Redis cluster: host:port[,host:port…] or redis[s]://[user:password@]host:port[,…][?ca=…]."""
    redis_scripts: ScriptMode = "auto"
    """How scripts run over many keys: cross-slot, single for servers that refuse that, or what each node takes."""
    log_url: str = "sqlite:///log.db"
    """The event log: a database, or kafka://[user:password@]host:port[,host:port…][?security=…&ca=…]."""
    jwks_path: str = "jwks.json"
    """Public keys of the token issuer."""
    issuer: str = "feedmesh-dev"
    """`iss` that tokens must have."""
    audience: str = "feedmesh"
    """`aud` that tokens must have."""
    internal_key: str = ""
    """Secret of at least 16 characters that services show each other. Required."""
    region: int = 0
    """0-7: part of every id."""
    worker: int = 0
    """0-1023: part of every id. Services that mint ids lease the first free number from this one on; each service has
    numbers of its own."""
    workers: int = 1
    """How many numbers there are to lease from: as many as processes of the service, and some for those that end."""
    lease_name: str = ""
    """Under which name the number is leased: a process that is started again under it has its number back at once.
    Whoever names processes makes sure that only one of a name lives. Empty: its address, if that is fixed."""
    engine: Literal["native", "grpcio"] = "native"
    """The gRPC server implementation."""
    host: str = "127.0.0.1"
    """Where this service listens."""
    port: int = 0
    """The port it listens on; 0 picks a free one."""
    status_port: int = 0
    """Where a service that runs alone serves /status and /metrics, on loopback; 0: nowhere."""
    graph_svc: str = "127.0.0.1:0"
    """Address of graph_svc."""
    post_svc: str = "127.0.0.1:0"
    """Address of post_svc."""
    rank_svc: str = "127.0.0.1:0"
    """Address of rank_svc."""
    sweep_every_s: float = 5.0
    """How often unpublished events are looked for."""

    def __post_init__(self) -> None:
        """Raises SettingsInvalid naming every fault."""
        faults = []
        if not 0 <= self.region <= MAX_REGION:
            faults.append(f"FEEDMESH_REGION={self.region}: must be 0 to {MAX_REGION}")
        if not 0 <= self.worker <= MAX_WORKER:
            faults.append(f"FEEDMESH_WORKER={self.worker}: must be 0 to {MAX_WORKER}")
        elif not 1 <= self.workers <= MAX_WORKER + 1 - self.worker:
            faults.append(f"FEEDMESH_WORKERS={self.workers}: must be 1 to {MAX_WORKER + 1 - self.worker}")
        if len(self.lease_name) > LONGEST_LEASE_NAME:
            faults.append(f"FEEDMESH_LEASE_NAME={self.lease_name}: must have at most {LONGEST_LEASE_NAME} characters")
        if faults:
            raise SettingsInvalid("wrong settings:\n  " + "\n  ".join(faults))

    def claim(self, service: str) -> Claim:
        """What *service* leases its worker number with."""
        return Claim(
            service=service,
            region=self.region,
            workers=range(self.worker, self.worker + self.workers),
            name=self.lease_name,
            host=self.host,
            port=self.port,
        )

    def server_settings(self) -> ServerSettings:
        """How the server of a service listens."""
        return ServerSettings(engine=self.engine, host=self.host, port=self.port)

    def authenticator(self, clock: Clock) -> Authenticator:
        """Checks tokens and the mesh's key."""
        return Authenticator.from_jwks_file(
            self.jwks_path, issuer=self.issuer, audience=self.audience, internal_key=self.internal_key, clock=clock
        )

    def redis_address(self) -> RedisAddress:
        """Its nodes and the way in. Raises ValueError."""
        return RedisAddress.parse(self.redis)

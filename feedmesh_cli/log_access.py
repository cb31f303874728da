"""The event log of a running mesh, as an operator reads it: all that is there, and no consumer notices."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from google.protobuf import json_format

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh
from foundation.events.envelope import Undecodable, decode
from foundation.events.port import TOPICS, EventLog, Record
from foundation.model.clock import SystemRandomness
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.resources import open_log

RECORDS_PER_POLL = 500
QUIET_S = 1.5
"""A log that brings nothing for so long has been read to its end."""


def log_of(mesh: Mesh) -> AbstractAsyncContextManager[EventLog]:
    """The log of *mesh*, open."""
    return open_log(MeshSettings(log_url=mesh.log_url))


def require_topic(topic: str) -> str:
    """*topic*, if there is one of that name. Raises CliError (exit 2)."""
    if topic not in TOPICS:
        raise CliError(
            f"there is no topic {topic!r}",
            cause="the mesh has: " + ", ".join(TOPICS),
            next_step="feedmesh tail posts.created --decode",
            code=ExitCode.USAGE,
        )
    return topic


async def read_all(log: EventLog, topics: Sequence[str], *, follow: bool = False) -> AsyncIterator[Record]:
    """Every record of *topics*, oldest first per partition; with *follow* also those to come, without end.

    Reads under a group of its own that never commits: consumers notice nothing.
    """
    group = f"operator.{SystemRandomness().token_bytes(6).hex()}"
    while True:
        records = await log.poll(group, topics, max_records=RECORDS_PER_POLL, wait_s=QUIET_S)
        for record in records:
            yield record
        if not records and not follow:
            return


def as_data(record: Record, *, decoded: bool) -> dict[str, Any]:
    """A record for people and scripts; the value decoded, or as base64."""
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": str(record.key),
        "timestamp_ms": record.timestamp_ms,
        "headers": dict(record.headers),
    }
    if decoded:
        try:
            shown["event"] = json_format.MessageToDict(decode(record.value), preserving_proto_field_name=True)
            return shown
        except Undecodable as failure:
            shown["undecodable"] = failure.reason
    shown["value"] = base64.b64encode(record.value).decode()
    return shown

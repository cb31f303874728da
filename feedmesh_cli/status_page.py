"""The page /status of a whole mesh: what its services have yet to publish, and what the consumers are behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from feedmesh_cli.consumer_groups import CONSUMER_GROUPS
from foundation.errors import DomainError
from foundation.events.unpublished import Unpublished

if TYPE_CHECKING:
    from foundation.events.port import EventLog

LAG_WITHIN_S = 3.0
"""How long the log may take to tell the lag of all groups: less than a page may take, so that the rest is told."""


async def status_page(
    addresses: Mapping[str, str],
    unpublished: Callable[[], Awaitable[Mapping[str, Unpublished | None]]],
    log: EventLog,
) -> tuple[str, bytes]:
    """The page as JSON: `services`, `unpublished`, and `lag` or, when the log does not tell, `unavailable`."""
    # First, as it feeds the groups: what leaves an outbox meanwhile is seen at one of them, and nothing goes unseen.
    waiting = await unpublished()
    page: dict[str, Any] = {
        "services": dict(addresses),
        "unpublished": {service: told and asdict(told) for service, told in waiting.items()},
    }
    try:
        async with asyncio.timeout(LAG_WITHIN_S):
            page["lag"] = await lag_of(log)
    except TimeoutError:
        page["unavailable"] = f"the event log: no answer within {LAG_WITHIN_S:.0f} s"
    except DomainError as failure:
        page["unavailable"] = f"the event log: {failure.metadata.get('cause', failure.reason)}"
    return "application/json", json.dumps(page).encode()


async def lag_of(log: EventLog) -> dict[str, int]:
    """Group to records it has not finished, upstream groups first."""
    return {group: await log.lag(group, topics) for group, topics in CONSUMER_GROUPS.items()}

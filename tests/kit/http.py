"""HTTP as a plain client speaks it, without blocking the test's loop."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HttpAnswer:
    """One answer; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason of an error answer's ErrorInfo."""
        return str(self.json["details"][0]["reason"])


async def send(
    address: str,
    method: str,
    path: str,
    *,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> HttpAnswer:
    """The answer of *address* ("host:port") within 10 seconds."""

    def blocking() -> HttpAnswer:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            bearer = {"authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, body=body, headers={**bearer, **(headers or {})})
            answer = connection.getresponse()
            return HttpAnswer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(blocking)

"""What a mesh says of itself: what waits to be published counts as much as what waits to be handled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from feedmesh_cli import loading, status_page
from feedmesh_cli.failures import CliError
from feedmesh_cli.loading import drained, progress
from feedmesh_cli.mesh_file import Mesh
from feedmesh_cli.mesh_status import as_text, inspect_mesh, read_page, read_status
from feedmesh_cli.ports import free_ports
from foundation.errors import Unavailable
from foundation.events.unpublished import Unpublished
from foundation.runtime.pages import serving_pages
from tests.kit.eventually import eventually

NOTHING = Unpublished(events=0, slots=0)


@dataclass
class Services:
    """What a mesh with one outbox and one log would tell."""

    waiting: Unpublished | None = NOTHING
    behind: int = 0
    away: bool = False
    hangs: bool = False
    looked_at: list[str] = field(default_factory=list)
    soon: list[tuple[Unpublished, int]] = field(default_factory=list)
    """What waits, and how far the log is behind, at the next looks."""

    async def unpublished(self) -> Mapping[str, Unpublished | None]:
        self.looked_at.append("outboxes")
        return {"post_svc": self.waiting}

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        self.looked_at.append("log")
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise Unavailable("LOG_UNAVAILABLE", cause="_TRANSPORT")
        return self.behind if (group, topics) == ("fanout.posts", ("posts.created",)) else 0

    async def page(self) -> tuple[str, bytes]:
        if self.soon:
            self.waiting, self.behind = self.soon.pop(0)
        return await status_page.status_page({"post_svc": "here"}, self.unpublished, self)  # type: ignore[arg-type]

    async def told(self) -> Any:
        return json.loads((await self.page())[1])


class HastyClock:
    """25 s pass between any two looks at it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 25.0
        return self.now_s


@asynccontextmanager
async def mesh_of(services: Services, data: Path) -> AsyncIterator[Mesh]:
    (port,) = free_ports(1)
    async with serving_pages(port, {"/status": services.page}):
        yield Mesh(
            data=str(data),
            temporary=False,
            profile="embedded",
            edge="http://127.0.0.1:1",
            envoy_admin="127.0.0.1:1",
            status=f"http://127.0.0.1:{port}",
            redis="127.0.0.1:1",
            services={},
            internal_key="secret",
            processes={},
            ready=True,
        )


async def test_outboxes_are_looked_at_before_the_log_that_they_feed() -> None:
    services = Services(Unpublished(events=2, slots=1), behind=7)
    told = await services.told()
    assert services.looked_at[0] == "outboxes"
    assert services.looked_at.count("outboxes") == 1
    assert told["unpublished"] == {"post_svc": {"events": 2, "slots": 1}}
    assert told["lag"]["fanout.posts"] == 7


@pytest.mark.parametrize("fault", ["away", "hangs"])
async def test_what_waits_is_told_while_the_log_is_away(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_page, "LAG_WITHIN_S", 0.05)
    services = Services(Unpublished(events=2, slots=None), **{fault: True})
    async with mesh_of(services, tmp_path) as mesh:
        found = await inspect_mesh(mesh)
        assert not found.healthy
        assert "cannot tell how far it is behind: the event log" in found.problem
        assert found.unpublished == {"post_svc": Unpublished(events=2, slots=None)}
        with pytest.raises(CliError, match="cannot tell"):
            await read_status(mesh)


@pytest.mark.parametrize("waiting", [Unpublished(events=1, slots=0), Unpublished(events=0, slots=1),
                                     Unpublished(events=0, slots=None), None])  # fmt: skip
async def test_nothing_is_settled_while_something_may_wait(tmp_path: Path, waiting: Unpublished | None) -> None:
    services = Services(waiting)
    async with mesh_of(services, tmp_path) as mesh:
        assert not (await read_page(mesh)).settled
        services.waiting, services.behind = NOTHING, 1
        assert not (await read_page(mesh)).settled
        services.behind = 0
        assert (await read_page(mesh)).settled
        services.away = True
        assert not (await read_page(mesh)).settled


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (NOTHING, "0 events wait to be published"),
        (Unpublished(events=3, slots=2), "3 events wait to be published, and what 2 sweep slots may hold beside them"),
        (Unpublished(events=3, slots=None), "3 events wait to be published, and those of the process before it"),
        (None, "does not tell"),
    ],
)
def test_what_waits_is_said_in_words(told: Unpublished | None, text: str) -> None:
    assert as_text(told).startswith(text)


async def test_a_load_ends_when_its_events_are_published_and_handled(tmp_path: Path) -> None:
    services = Services(Unpublished(events=2, slots=0))
    async with mesh_of(services, tmp_path) as mesh:
        with progress() as bar:
            waiting = asyncio.create_task(drained(mesh, bar))
            await eventually(lambda: _asked(services, 3))
            assert not waiting.done()
            services.waiting, services.behind = NOTHING, 500
            await eventually(lambda: _asked(services, 6))
            assert not waiting.done()
            services.behind = 0
            await asyncio.wait_for(waiting, 5)


async def test_a_load_that_waits_for_nothing_gives_up_and_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SystemClock", HastyClock)
    services = Services(Unpublished(events=2, slots=0), behind=3)
    async with mesh_of(services, tmp_path) as mesh:
        with progress() as bar:
            with pytest.raises(CliError, match="post_svc: 2 events wait to be published"):
                await drained(mesh, bar)
            assert services.looked_at.count("outboxes") == 4, "at 75 s it is certain"
            services.waiting = NOTHING
            mesh.logs.mkdir()
            (mesh.logs / "fanout_worker.log").write_text(
                '{"group":"fanout.posts","event":"old","level":"error","timestamp":"1"}\n'
                '{"group":"fanout.posts","reason":"STORE_TIMEOUT","event":"dependency_away",'
                '"level":"warning","timestamp":"2"}\nno data\n[1]\n{"event":"fine","level":"info","timestamp":"3"}\n'
            )
            (mesh.logs / "feed_svc.log").write_text('{"event":"fine","level":"info","timestamp":"3"}\n')
            with pytest.raises(CliError, match=r"fanout\.posts: 3 events wait to be delivered") as stalled:
                await drained(mesh, bar)
            assert stalled.value.detail == (
                "fanout_worker.log: 2 dependency_away group=fanout.posts reason=STORE_TIMEOUT"
            )


async def test_events_of_others_hide_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SystemClock", HastyClock)
    services = Services()
    services.soon = [(NOTHING, behind) for behind in (3, 900, 800, 700, 600, 500, 0)]
    async with mesh_of(services, tmp_path) as mesh:
        with progress() as bar:
            await drained(mesh, bar)
    assert not services.soon


async def test_a_sweep_that_publishes_more_than_waited_is_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SystemClock", HastyClock)
    waits = Unpublished(events=2, slots=0)
    services = Services(waits)
    services.soon = [(waits, 0), *[(NOTHING, behind) for behind in (1_000, 900, 800, 700, 600, 0)]]
    async with mesh_of(services, tmp_path) as mesh:
        with progress() as bar:
            await drained(mesh, bar)
    assert not services.soon


async def _asked(services: Services, times: int) -> bool:
    return services.looked_at.count("outboxes") >= times

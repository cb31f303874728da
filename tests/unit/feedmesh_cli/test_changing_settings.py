"""`--set NAME=VALUE` reaches the services that have the setting, and is refused before anything starts."""

from __future__ import annotations

import pytest

import fanout_worker.settings
import feed_svc.settings
from feedmesh_cli.changing_settings import read_changes
from feedmesh_cli.failures import CliError, ExitCode
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.settings import changed


def test_a_change_is_for_the_services_that_have_the_setting() -> None:
    changes = read_changes(["pull_from=500", "Inline_Up_To=100"])
    worker = fanout_worker.settings.Settings(mesh=MeshSettings(redis="here:1"), rate_limit_per_s=7)
    told = changed(worker, changes)
    assert (told.pull_from, told.inline_up_to, told.rate_limit_per_s, told.mesh) == (500, 100, 7, worker.mesh)
    feed = feed_svc.settings.Settings()
    assert changed(feed, changes) == feed
    assert changed(feed, {}) is feed


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("pull_form=500", "no setting is called 'pull_form'"),
        ("pull_from", "names no value"),
        ("database_url=sqlite:///x", "no setting is called 'database_url'"),
        ("redis=here:1", "no setting is called 'redis'"),
        ("pull_from=many", "settings that cannot be used"),
        ("pull_from=1000", "settings that cannot be used"),
    ],
)
def test_what_no_service_can_use_is_refused(assignment: str, expected: str) -> None:
    with pytest.raises(CliError) as refused:
        read_changes([assignment])
    assert expected in refused.value.what
    assert refused.value.code is ExitCode.USAGE
    assert refused.value.cause
    assert refused.value.next_step


def test_the_setting_that_was_meant_is_named() -> None:
    with pytest.raises(CliError) as refused:
        read_changes(["pull_form=500"])
    assert refused.value.next_step == "feedmesh up --set pull_from=500"

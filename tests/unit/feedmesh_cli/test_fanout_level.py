"""How long an override may last."""

from __future__ import annotations

import pytest

from feedmesh_cli.failures import CliError
from feedmesh_cli.fanout_level import duration_s


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7_200), ("24h", 86_400)])
def test_times_that_people_write(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0m", "-5m", "1d", "25h", "1.5h", "10 m", "9999999s"])
def test_what_is_no_time_to_keep_a_level_for_is_refused(text: str) -> None:
    with pytest.raises(CliError):
        duration_s(text)

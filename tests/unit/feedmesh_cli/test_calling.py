"""Finding methods and reading bodies for `feedmesh call`."""

import pytest

from feedmesh_cli.calling import call, find_method
from feedmesh_cli.failures import CliError, ExitCode


@pytest.mark.parametrize(
    "name", ["feedmesh.feed.v1.FeedService/GetFeed", "/feedmesh.feed.v1.FeedService/GetFeed", "FeedService/GetFeed"]
)
def test_a_method_is_found_by_its_full_or_short_name(name: str) -> None:
    assert find_method(name).full_name == "feedmesh.feed.v1.FeedService.GetFeed"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "GetFeed",
        "FeedService/Nothing",
        "feedmesh.graph.v1.GraphInternalService/ImportUsers",
        "RankService/RankCandidates",
    ],
)
def test_unknown_and_internal_methods_are_wrong_usage(name: str) -> None:
    with pytest.raises(CliError) as failure:
        find_method(name)
    assert failure.value.code == ExitCode.USAGE
    assert "feedmesh.feed.v1.FeedService/GetFeed" in failure.value.cause


@pytest.mark.parametrize("body", ["{", '{"nothing": 1}', '{"limit": "many"}'])
async def test_a_body_that_does_not_fit_is_wrong_usage(body: str) -> None:
    with pytest.raises(CliError) as failure:
        async for _ in call("127.0.0.1:1", "FeedService/GetFeed", body, token=None, timeout_s=1):
            pass
    assert failure.value.code == ExitCode.USAGE
    assert "limit" in failure.value.next_step

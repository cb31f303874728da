"""How failures are told."""

from feedmesh_cli.failures import CliError, ExitCode


def test_a_failure_is_told_in_four_parts_and_the_log() -> None:
    failure = CliError("it broke", where="here", cause="that", next_step="do this", detail="line 1\nline 2")
    assert failure.as_text() == (
        "error: it broke\n  where  here\n  cause  that\n  next   do this\n\n  | line 1\n  | line 2"
    )


def test_empty_parts_are_left_out() -> None:
    assert CliError("it broke").as_text() == "error: it broke"
    assert CliError("it broke", code=ExitCode.UNHEALTHY).as_data() == {"error": "it broke", "exit_code": 3}

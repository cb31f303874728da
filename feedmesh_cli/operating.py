"""The operator's commands: doctor, migrate, tail, trace, dlq, ops."""

from __future__ import annotations

import asyncio
import json as json_lib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from feedmesh_cli.failures import CliError, ExitCode

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data directory of the mesh. Default: the one started last."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Cassandra = Annotated[str, typer.Option(metavar="URL", help="A Cassandra or ScyllaDB: [user:password@]host:port,…")]
Kafka = Annotated[str, typer.Option(metavar="URL", help="Brokers: [user:password@]host:port,…")]
Redis = Annotated[str, typer.Option(metavar="URL", help="A Redis or Valkey Cluster: host:port,…")]

migrate = typer.Typer(help="Bring stores and topics to this version.", no_args_is_help=True, rich_markup_mode=None)
dlq = typer.Typer(help="Dead letters: what could not be handled.", no_args_is_help=True, rich_markup_mode=None)
ops = typer.Typer(help="Switches of a running mesh.", no_args_is_help=True, rich_markup_mode=None)
level = typer.Typer(
    help="What the fan-out does about being behind: levels 0 to 3.", no_args_is_help=True, rich_markup_mode=None
)
ops.add_typer(level, name="level")


def doctor(
    profile: Annotated[str, typer.Option(help="embedded or cluster.")] = "cluster",
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Where data shall be kept.")] = None,
    cassandra: Cassandra = "",
    kafka: Kafka = "",
    redis: Redis = "",
    json: Json = False,
) -> None:
    """Tell what this machine and the engines named lack, each with its fix. Exit code 1 when there is something."""
    from feedmesh_cli.doctor import MEMORY_MB, examine
    from feedmesh_cli.engines.findings import Verdict

    if profile not in MEMORY_MB:
        raise CliError(f"there is no profile {profile!r}", next_step="--profile cluster", code=ExitCode.USAGE)
    findings = asyncio.run(examine(profile, data, cassandra=cassandra, kafka=kafka, redis=redis))
    faults = sum(finding.verdict is Verdict.FAULT for finding in findings)
    told = {"healthy": not faults, "findings": [finding.as_data() for finding in findings]}
    end = f"{faults} to mend" if faults else f"ready for feedmesh up --profile {profile}"
    _emit(told, "\n".join([finding.as_text() for finding in findings] + [end]), json=json)
    if faults:
        raise typer.Exit(ExitCode.FAILURE)


@migrate.command("up")
def migrate_up(data: Data = None, cassandra: Cassandra = "", kafka: Kafka = "", json: Json = False) -> None:
    """Apply what is pending."""
    from feedmesh_cli.migrating import migrate_all

    done = _on_engines(data, cassandra, kafka, migrate_all)
    lines = [f"{where}: {', '.join(names)}" for where, names in done.applied.items()] or ["nothing was pending"]
    lines += [f"left to you: {text}" for text in done.left]
    _emit({"applied": dict(done.applied), "left": list(done.left)}, "\n".join(lines), json=json)


@migrate.command("status")
def migrate_status(data: Data = None, cassandra: Cassandra = "", kafka: Kafka = "", json: Json = False) -> None:
    """Every migration and topic, and how it stands."""
    _show_steps(data, cassandra, kafka, json=json, only_open=False)


@migrate.command("plan")
def migrate_plan(data: Data = None, cassandra: Cassandra = "", kafka: Kafka = "", json: Json = False) -> None:
    """What `migrate up` would do."""
    _show_steps(data, cassandra, kafka, json=json, only_open=True)


def tail(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="As in posts.created.")],
    decode: Annotated[bool, typer.Option("--decode", help="Show events as JSON, not as base64.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    last: Annotated[int, typer.Option(metavar="N", min=0, help="Only the last N records; 0: all.")] = 0,
    data: Data = None,
) -> None:
    """Print the records of a topic, a JSON object each line."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_tail(topic, decode=decode, follow=follow, last=last, data=data))


def trace(
    post_id: Annotated[int, typer.Argument(metavar="POST_ID", help="The post.")], data: Data = None, json: Json = False
) -> None:
    """Follow a post: its row, its events, retries, dead letters, and the timelines that should hold it."""
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.tracing_posts import trace_post

    found = asyncio.run(trace_post(running_mesh(data), post_id))
    _emit(found.as_data(), found.as_text(), json=json)


@dlq.command("ls")
def dlq_ls(
    every: Annotated[bool, typer.Option("--all", help="Settled ones too.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """List dead letters that nobody has settled."""
    from feedmesh_cli.dead_letters import list_letters
    from feedmesh_cli.mesh_file import running_mesh

    letters = asyncio.run(list_letters(running_mesh(data), every=every))
    text = "\n".join(letter.as_text() for letter in letters) or "no dead letters"
    _emit({"letters": [letter.as_data() for letter in letters]}, text, json=json)


@dlq.command("show")
def dlq_show(letter: Annotated[str, typer.Argument(metavar="ID")], data: Data = None) -> None:
    """Everything about one dead letter, as JSON."""
    from feedmesh_cli.dead_letters import show_letter
    from feedmesh_cli.mesh_file import running_mesh

    print(json_lib.dumps(asyncio.run(show_letter(running_mesh(data), letter)), indent=2))


Letters = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `dlq ls` names them.")]
Error = Annotated[str, typer.Option("--error", metavar="CLASS", help="All open letters with this error.")]


@dlq.command("redrive")
def dlq_redrive(
    letters: Letters = None,
    error: Error = "",
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="At most so many a second.")] = 50,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Try dead letters again, as if for the first time."""
    from feedmesh_cli.dead_letters import redrive
    from feedmesh_cli.mesh_file import running_mesh

    _require_choice(letters, error)
    done = asyncio.run(redrive(running_mesh(data), letters or [], error=error, rate=rate, dry_run=dry_run))
    verb = "would redrive" if dry_run else "redriven"
    told = {"redriven": [letter.id for letter in done], "dry_run": dry_run}
    _emit(told, f"{verb}: {', '.join(letter.id for letter in done) or 'none'}", json=json)


@dlq.command("discard")
def dlq_discard(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")],
    letters: Letters = None,
    error: Error = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Settle dead letters without trying them again."""
    from feedmesh_cli.dead_letters import discard
    from feedmesh_cli.mesh_file import running_mesh

    _require_choice(letters, error)
    done = asyncio.run(discard(running_mesh(data), letters or [], error=error, reason=reason))
    told = ", ".join(letter.id for letter in done) or "none"
    _emit({"discarded": [letter.id for letter in done]}, f"discarded: {told}", json=json)


@level.command("show")
def level_show(data: Data = None, json: Json = False) -> None:
    """Tell the level, why it is so, and what changed it lately."""
    from feedmesh_cli.fanout_level import show_level
    from feedmesh_cli.mesh_file import running_mesh

    shown = asyncio.run(show_level(running_mesh(data)))
    _emit(shown.as_data(), shown.as_text(), json=json)


@level.command("set")
def level_set(
    number: Annotated[int, typer.Argument(metavar="N", help="0: all is pushed … 3: all is left to readers.")],
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="As in 90s, 10m, 2h; then the lag decides.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="It is kept and logged.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Override the level for a while."""
    from feedmesh_cli.fanout_level import override_level
    from feedmesh_cli.mesh_file import running_mesh

    shown = asyncio.run(override_level(running_mesh(data), number, lasting=lasting, why=why))
    _emit(shown.as_data(), shown.as_text(), json=json)


@level.command("clear")
def level_clear(data: Data = None, json: Json = False) -> None:
    """End an override: the lag decides."""
    from feedmesh_cli.fanout_level import release_level
    from feedmesh_cli.mesh_file import running_mesh

    ended = asyncio.run(release_level(running_mesh(data)))
    _emit({"cleared": ended}, "the lag decides" if ended else "there was no override", json=json)


async def _tail(topic: str, *, decode: bool, follow: bool, last: int, data: Path | None) -> None:
    from collections import deque

    from feedmesh_cli.log_access import as_data, log_of, read_all, require_topic
    from feedmesh_cli.mesh_file import running_mesh

    mesh = running_mesh(data)
    async with log_of(mesh) as log:
        newest: deque[Any] = deque(maxlen=last or None)
        async for record in read_all(log, [require_topic(topic)], follow=follow and not last):
            if last:
                newest.append(record)
            else:
                print(json_lib.dumps(as_data(record, decoded=decode)), flush=True)
        for record in newest:
            print(json_lib.dumps(as_data(record, decoded=decode)), flush=True)


def _show_steps(data: Path | None, cassandra: str, kafka: str, *, json: bool, only_open: bool) -> None:
    from dataclasses import asdict

    from feedmesh_cli.migrating import migration_steps

    steps = _on_engines(data, cassandra, kafka, migration_steps)
    shown = [step for step in steps if not only_open or step.standing != "applied"]
    text = "\n".join(f"{step.where:<16} {step.what:<24} {step.standing}" for step in shown) or "nothing is pending"
    _emit({"steps": [asdict(step) for step in shown]}, text, json=json)


def _on_engines(data: Path | None, cassandra: str, kafka: str, work: Any) -> Any:
    """Runs *work* on the engines named, or on those of a running mesh."""
    from feedmesh_cli.engines.addresses import EngineAddresses, with_scheme
    from feedmesh_cli.mesh_file import running_mesh
    from foundation.errors import DomainError

    if cassandra and kafka:
        engines = EngineAddresses(
            cassandra=with_scheme("cassandra", cassandra), kafka=with_scheme("kafka", kafka), redis=""
        )
    else:
        mesh = running_mesh(data)
        if mesh.profile != "cluster":
            raise CliError(
                "the embedded profile has nothing to migrate",
                cause="its tables are made when it starts",
                next_step="name engines: --cassandra host:port --kafka host:port",
                code=ExitCode.USAGE,
            )
        engines = EngineAddresses.running(mesh)
    try:
        return asyncio.run(work(engines))
    except DomainError as failure:
        raise CliError(
            "the engines cannot be migrated", where=failure.message, cause=failure.reason, next_step="feedmesh doctor"
        ) from failure


def _require_choice(letters: list[str] | None, error: str) -> None:
    if bool(letters) == bool(error):
        raise CliError(
            "name dead letters or an error class", cause="neither or both were given", next_step="feedmesh dlq ls",
            code=ExitCode.USAGE,
        )  # fmt: skip


def _emit(data: dict[str, Any], text: str, *, json: bool) -> None:
    print(json_lib.dumps(data) if json else text, flush=True)

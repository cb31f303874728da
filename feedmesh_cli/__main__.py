"""The command line. Every command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import asyncio
import json as json_lib
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from feedmesh_cli import operating
from feedmesh_cli.bench import bench
from feedmesh_cli.failures import CliError, ExitCode

app = typer.Typer(
    name="feedmesh",
    help="The home feed of an Instagram-scale network, on your machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the mesh is not running or not well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
seed = typer.Typer(
    help="Fill a running mesh with users, follows and posts.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(seed, name="seed")

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data directory of the mesh. Default: the one started last."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


class Profile(StrEnum):
    """What the mesh is made of."""

    EMBEDDED = "embedded"
    CLUSTER = "cluster"


class Engine(StrEnum):
    """The gRPC server implementation."""

    NATIVE = "native"
    GRPCIO = "grpcio"


@app.command()
def up(
    profile: Annotated[Profile, typer.Option(help="What the mesh is made of.")] = Profile.EMBEDDED,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keep data here. Default: forget it at the end.")
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option(metavar="N", help="Listen on N (Envoy) and the ports after it. Default: 8080 or a free one."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the mesh is ready; it runs on.")] = False,
    json: Json = False,
    no_world: Annotated[bool, typer.Option("--no-world", help="Start a new mesh without users.")] = False,
    engine: Annotated[Engine, typer.Option(help="The gRPC server of the services.")] = Engine.NATIVE,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rank with this ONNX model. Default: the rule-based score.")
    ] = None,
    no_recommendations: Annotated[
        bool, typer.Option("--no-recommendations", help="Feeds hold only posts of people whom the viewer follows.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the services, as pull_from=500."),
    ] = None,
    bench_target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Route /feedmesh.bench.Noop/ to this no-op service.")
    ] = "",
    cassandra: Annotated[
        str, typer.Option(metavar="URL", help="Cluster: use this Cassandra or ScyllaDB: [user:password@]host:port,…")
    ] = "",
    kafka: Annotated[str, typer.Option(metavar="URL", help="Cluster: use these brokers: host:port,…")] = "",
    redis: Annotated[str, typer.Option(metavar="URL", help="Cluster: use this Redis Cluster: host:port,…")] = "",
    fanout_workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=12, help="Cluster: processes that share the fan-out.")
    ] = 1,
    restart_after: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Cluster: how long a part that died stays down.")
    ] = 1.0,
    forget: Annotated[bool, typer.Option("--forget", hidden=True)] = False,
) -> None:
    """Start the mesh: Envoy, all services, their engines. Ctrl-C stops it, a second Ctrl-C at once."""
    from feedmesh_cli.starting import UpOptions
    from feedmesh_cli.up import Started, temporary_directory, up_detached, up_in_foreground

    settings: Mapping[str, str] = {}
    if changes:
        # It knows what every service can be told: half a second that a start without it need not wait for.
        from feedmesh_cli.changing_settings import read_changes

        settings = read_changes(changes)
    options = UpOptions(
        data=data.absolute() if data else temporary_directory(),
        temporary=data is None or forget,
        profile=profile.value,
        port_base=port_base,
        engine=engine.value,
        model=str(model.absolute()) if model else "",
        recommendations=not no_recommendations,
        bench_target=bench_target,
        cassandra=cassandra,
        kafka=kafka,
        redis=redis,
        fanout_workers=fanout_workers,
        restart_after_s=restart_after,
        changes=settings,
    )

    def tell(started: Started) -> None:
        _emit(started.as_data(), started.as_text(), json=json)

    if detach:
        arguments = ["--profile", profile.value, "--engine", engine.value]
        arguments += ["--port-base", str(port_base)] if port_base is not None else []
        arguments += ["--model", options.model] if options.model else []
        arguments += ["--bench-target", bench_target] if bench_target else []
        arguments += ["--no-world"] if no_world else []
        arguments += ["--no-recommendations"] if no_recommendations else []
        arguments += ["--restart-after", str(restart_after), "--fanout-workers", str(fanout_workers)]
        for change in changes or ():
            arguments += ["--set", change]
        for name in ("cassandra", "kafka", "redis"):
            arguments += [f"--{name}", getattr(options, name)] if getattr(options, name) else []
        tell(asyncio.run(up_detached(options, arguments)))
    else:
        asyncio.run(up_in_foreground(options, world=not no_world, tell=tell))


@app.command()
def down(data: Data = None, json: Json = False) -> None:
    """Stop the mesh. Stopping none is fine."""
    from feedmesh_cli.mesh_file import default_directory, load_mesh
    from feedmesh_cli.stopping import stop_mesh

    directory = data.absolute() if data else default_directory()
    mesh = load_mesh(directory) if directory else None
    running = mesh is not None and mesh.alive()
    if mesh is not None:
        asyncio.run(stop_mesh(mesh))
    _emit({"stopped": running}, "stopped" if running else "no mesh was running", json=json)


@app.command()
def restart(
    parts: Annotated[list[str], typer.Argument(metavar="PART...", help="As `feedmesh status` names them.")],
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For each part.")] = 60.0,
    data: Data = None,
    json: Json = False,
) -> None:
    """Cluster: end parts, one after the other, and return when each runs again: its work in hand is finished first."""
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.stopping import restart_part

    mesh = running_mesh(data)
    seconds = {part: asyncio.run(restart_part(mesh, part, timeout_s=timeout)) for part in parts}
    _emit({"restarted": seconds}, "\n".join(f"{part}: {took:.1f} s" for part, took in seconds.items()), json=json)


@app.command()
def status(data: Data = None, json: Json = False) -> None:
    """Tell how the mesh is. Exit code 3 unless all is well."""
    from dataclasses import asdict

    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.mesh_status import as_text, inspect_mesh

    found = asyncio.run(inspect_mesh(running_mesh(data)))
    lines = [f"{'healthy' if found.healthy else 'UNHEALTHY'}   {found.edge}   data: {found.data}"]
    lines += [
        f"  {name:<13} {'up  ' if runs else 'DOWN'} {found.memory_mb.get(name, 0):>6} MB"
        for name, runs in found.processes.items()
    ]
    lines += [f"  {service:<16} {as_text(told)}" for service, told in found.unpublished.items()]
    lines += [f"  {group:<16} {lag} events behind" for group, lag in found.lag.items()]
    lines += [f"  {found.problem}"] if found.problem else []
    _emit(asdict(found), "\n".join(lines), json=json)
    if not found.healthy:
        raise typer.Exit(ExitCode.UNHEALTHY)


@app.command()
def wait(
    data: Data = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after this long.")] = 30.0,
    json: Json = False,
) -> None:
    """Return once the mesh answers. Exit code 3 when it does not in time."""
    from feedmesh_cli.readiness import wait_until_ready

    mesh = asyncio.run(wait_until_ready(data, timeout_s=timeout))
    _emit({"ready": True, "edge": mesh.edge, "data": mesh.data}, f"ready: {mesh.edge}", json=json)


@app.command()
def token(
    user: Annotated[str, typer.Option(metavar="USERNAME", help="Whose token.")], data: Data = None, json: Json = False
) -> None:
    """Make a development token, valid for a day."""
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.tokens import token_for

    made = asyncio.run(token_for(running_mesh(data), user))
    _emit({"token": made.token, "user_id": made.user_id}, made.token, json=json)


@app.command()
def call(
    method: Annotated[
        str, typer.Argument(metavar="SERVICE/METHOD", help="As in feedmesh.feed.v1.FeedService/GetFeed.")
    ],
    body: Annotated[str, typer.Argument(metavar="JSON", help="The request.")] = "{}",
    user: Annotated[str, typer.Option(metavar="USERNAME", help="Call as this user. Default: without a token.")] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="The deadline of the call; a stream is listened to for so long.")
    ] = 10.0,
    data: Data = None,
    json: Annotated[bool, typer.Option("--json", help="Errors as JSON too; answers always are.")] = False,
) -> None:
    """Call a public RPC through Envoy; the answer is JSON, for a stream a line of JSON per message."""
    asyncio.run(_call(method, body, user=user, timeout_s=timeout, data=data, json=json))


async def _call(method: str, body: str, *, user: str, timeout_s: float, data: Path | None, json: bool) -> None:
    from feedmesh_cli.calling import call as call_edge
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.tokens import token_for

    mesh = running_mesh(data)
    bearer = (await token_for(mesh, user)).token if user else None
    async for answer in call_edge(mesh.edge_address, method, body, token=bearer, timeout_s=timeout_s):
        if not json:
            shown = {
                name: value for name, value in answer.headers.items() if name in ("x-feed-quality", "x-cache-status")
            }
            for name, value in shown.items():
                print(f"{name}: {value}", file=sys.stderr)
        print(answer.json, flush=True)


@app.command()
def explain(
    post_id: Annotated[int, typer.Argument(metavar="POST_ID", help="The post.", min=1)],
    user: Annotated[str, typer.Option(metavar="USERNAME", help="Whose feed.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Tell why a post is where it is in a user's feed: source, place, scores, features, decision."""
    from feedmesh_cli.explaining import as_text
    from feedmesh_cli.explaining import explain as ask
    from feedmesh_cli.mesh_file import running_mesh

    found = asyncio.run(ask(running_mesh(data), post_id, user))
    _emit(found, as_text(found), json=json)


@seed.command("graph")
def seed_graph(
    file: Annotated[Path, typer.Argument(metavar="FILE", help='An edge a line: "1 2"; # and % start comments.')],
    directed: Annotated[bool, typer.Option("--directed", help='"1 2" is 1 follows 2. Default: both ways.')] = False,
    posts_per_user: Annotated[int, typer.Option(metavar="K", min=0, help="Posts that every user writes.")] = 0,
    data: Data = None,
    json: Json = False,
) -> None:
    """Load an edge list: node N becomes the user nN. Loading it again adds nothing but posts."""
    from feedmesh_cli.edge_list import read_edge_list
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.world import as_world

    mesh = running_mesh(data)
    _load(mesh, as_world(read_edge_list(file, directed=directed), posts_per_user=posts_per_user), json=json)


@seed.command("world")
def seed_world(
    users: Annotated[int, typer.Option(metavar="N", min=2, max=1_000_000, help="People in it.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="The same seed makes the same world.")] = 1,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make up a world: communities, a power law of followers, a celebrity (ana), a few posts each."""
    from feedmesh_cli.mesh_file import running_mesh
    from feedmesh_cli.world import make_world

    _load(running_mesh(data), make_world(users, seed=seed), json=json)


app.command()(bench)
app.command()(operating.doctor)
app.command()(operating.tail)
app.command()(operating.trace)
app.add_typer(operating.migrate, name="migrate")
app.add_typer(operating.dlq, name="dlq")
app.add_typer(operating.ops, name="ops")


def _load(mesh: Any, world: Any, *, json: bool) -> None:
    from dataclasses import asdict

    from feedmesh_cli.loading import load

    loaded = asyncio.run(load(mesh, world.usernames, world.follows, world.posts))
    text = f"{loaded.users} users, {loaded.follows} new follows, {loaded.posts} posts in {loaded.seconds} s"
    _emit({**asdict(loaded), "edge": mesh.edge}, text, json=json)


def _emit(data: dict[str, Any], text: str, *, json: bool) -> None:
    print(json_lib.dumps(data) if json else text, flush=True)


def main() -> None:
    """Runs the command line; a CliError is told in its four parts, as JSON on stdout with --json."""
    try:
        app()
    except CliError as failure:
        if "--json" in sys.argv:
            print(json_lib.dumps(failure.as_data()), flush=True)
        else:
            print(failure.as_text(), file=sys.stderr, flush=True)
        sys.exit(int(failure.code))


if __name__ == "__main__":
    main()

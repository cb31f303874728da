"""Builds the graph service; the only module that knows which adapter is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from feedmesh.graph.v1 import graph_internal_service_pb2, graph_service_pb2, user_service_pb2

from foundation.card_changes import RedisCardChanges
from foundation.events.consumer import Consumer
from foundation.events.outbox import Outbox, Publisher
from foundation.events.port import GRAPH_BY_FOLLOWEE
from foundation.events.sql_outbox import SqlOutbox
from foundation.leases.sql_leases import SqlWorkerLeases
from foundation.leases.worker_lease import Claim, WorkerLease, worker_lease
from foundation.list_cursors import ListCursors
from foundation.model.clock import Clock, SystemClock, SystemRandomness
from foundation.rpc.admission import Priority
from foundation.rpc.server import Access, Server, Service, build_server
from foundation.runtime.resources import open_log, open_redis
from foundation.seal import Sealer
from foundation.sql.database import open_database
from graph_svc.adapters.announcements_log import LogAnnouncements
from graph_svc.adapters.edges_sql import SqlEdges
from graph_svc.adapters.followers_sql import SqlFollowers
from graph_svc.adapters.read_models import ReadModelRecords, RecordRows
from graph_svc.adapters.read_models_sql import SqlRecordRows
from graph_svc.adapters.tables import FOLLOWING, GRAPH_CHANGES, GRAPH_TABLES, OPEN_SLOTS, WORKER_LEASES
from graph_svc.adapters.tiers_sql import SqlTiers
from graph_svc.adapters.users_sql import SqlUsers
from graph_svc.edge.handlers import GraphHandlers, UserHandlers
from graph_svc.edge.internal_handlers import GraphInternalHandlers
from graph_svc.edge.records import FollowRecords
from graph_svc.edge.tier_rounds import TierRounds
from graph_svc.flows.apply_follows import ApplyFollows
from graph_svc.flows.change_blocks import ChangeBlocks
from graph_svc.flows.change_follows import ChangeFollows
from graph_svc.flows.cross_tiers import CrossTiers
from graph_svc.flows.keep_accounts import KeepAccounts
from graph_svc.flows.list_people import ListPeople
from graph_svc.flows.mark_followers import MarkFollowers
from graph_svc.flows.review_tiers import ReviewTiers
from graph_svc.ports import Edges, Followers, Tiers, Users
from graph_svc.settings import Settings


@asynccontextmanager
async def compose(settings: Settings) -> AsyncIterator[Server]:
    """The started service; torn down in reverse order."""
    mesh = settings.mesh
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(mesh))
        log = await stack.enter_async_context(open_log(mesh))
        open_store = _cql_store if settings.database_url.startswith("cassandra:") else _sql_store
        store = await stack.enter_async_context(open_store(settings.database_url, mesh.claim("graph_svc"), clock))
        users, edges = store.users, store.edges
        ids = store.lease.ids
        publisher = Publisher(
            log, store.outbox, clock, service="graph_svc", worker=ids.node, sweep_every_s=mesh.sweep_every_s
        )
        store.lease.when_interrupted = publisher.take_over_again
        read_models = ReadModelRecords(store.record_rows, redis, RedisCardChanges(redis, SystemRandomness()))
        stack.push_async_callback(read_models.close)
        accounts = KeepAccounts(users=users, edges=edges, read_models=read_models, ids=ids, clock=clock)
        follows = ChangeFollows(
            edges=edges, read_models=read_models, outbox=publisher, ids=ids, limit=settings.follow_limit
        )
        blocks = ChangeBlocks(users=users, edges=edges, read_models=read_models, outbox=publisher, ids=ids)
        tiers = store.tiers
        mark_followers = MarkFollowers(tiers=tiers, read_models=read_models)
        review_tiers = ReviewTiers(tiers=tiers, read_models=read_models, clock=clock, borders=settings.borders())
        apply_follows = ApplyFollows(
            followers=store.followers,
            mark_followers=mark_followers,
            announcements=LogAnnouncements(log),
            review_tiers=review_tiers,
        )
        cross_tiers = CrossTiers(tiers=tiers, edges=edges, mark_followers=mark_followers, review=review_tiers)
        sealer = Sealer({1: bytes.fromhex(settings.cursor_key)}, 1, SystemRandomness())
        public = GraphHandlers(
            follows=follows,
            blocks=blocks,
            people=ListPeople(accounts=accounts, edges=edges),
            follower_cursors=ListCursors(sealer, clock, "ListFollowers"),
            following_cursors=ListCursors(sealer, clock, "ListFollowing"),
        )
        internal = GraphInternalHandlers(
            edges=edges, users=users, read_models=read_models, accounts=accounts, follows=follows
        )
        server = build_server(
            mesh.server_settings(),
            [
                Service(
                    graph_service_pb2.DESCRIPTOR.services_by_name["GraphService"],
                    public,
                    Access.USER,
                    priorities=dict.fromkeys(("Unfollow", "Block", "Unblock", "Mute", "Unmute"), Priority.CRITICAL),
                ),
                Service(
                    user_service_pb2.DESCRIPTOR.services_by_name["UserService"],
                    UserHandlers(accounts),
                    Access.USER,
                    open_methods=frozenset({"CreateUser"}),
                    priorities={"CreateUser": Priority.CRITICAL},
                ),
                Service(
                    graph_internal_service_pb2.DESCRIPTOR.services_by_name["GraphInternalService"],
                    internal,
                    Access.INTERNAL,
                    priorities=dict.fromkeys(("ImportUsers", "ImportFollows"), Priority.BULK),
                ),
            ],
            auth=mesh.authenticator(clock),
            clock=clock,
            ids=ids,
        )
        await stack.enter_async_context(publisher.running())
        consumer = Consumer(
            log,
            group="graph.followers",
            max_records=2_000,
            topics=[GRAPH_BY_FOLLOWEE],
            handle=FollowRecords(apply_follows),
            clock=clock,
        )
        await stack.enter_async_context(consumer.running())
        await stack.enter_async_context(TierRounds(cross_tiers, every_s=settings.tier_job_every_s).running())
        await server.start()
        stack.push_async_callback(server.stop, 5.0)
        yield server


@dataclass(frozen=True, kw_only=True)
class Store:
    """The adapters over one store."""

    users: Users
    edges: Edges
    followers: Followers
    tiers: Tiers
    record_rows: RecordRows
    outbox: Outbox
    lease: WorkerLease


@asynccontextmanager
async def _sql_store(url: str, claim: Claim, clock: Clock) -> AsyncIterator[Store]:
    async with (
        open_database(url, GRAPH_TABLES) as database,
        worker_lease(SqlWorkerLeases(database, WORKER_LEASES, clock), claim, clock, SystemRandomness()) as lease,
    ):
        yield Store(
            users=SqlUsers(database),
            edges=SqlEdges(database),
            followers=SqlFollowers(database),
            tiers=SqlTiers(database),
            record_rows=SqlRecordRows(database),
            outbox=SqlOutbox(database, OPEN_SLOTS, [FOLLOWING, GRAPH_CHANGES]),
            lease=lease,
        )


@asynccontextmanager
async def _cql_store(url: str, claim: Claim, clock: Clock) -> AsyncIterator[Store]:
    # The extra `cluster` brings the driver; the embedded profile does without.
    from foundation.cql.migrations import open_keyspace  # noqa: PLC0415
    from foundation.events.cql_outbox import CqlOutbox  # noqa: PLC0415
    from foundation.leases.cql_leases import CqlWorkerLeases  # noqa: PLC0415
    from graph_svc.adapters.changes_cql import Changes, graph_sources  # noqa: PLC0415
    from graph_svc.adapters.edges_cql import CqlEdges  # noqa: PLC0415
    from graph_svc.adapters.followers_cql import CqlFollowers  # noqa: PLC0415
    from graph_svc.adapters.read_models_cql import CqlRecordRows  # noqa: PLC0415
    from graph_svc.adapters.tiers_cql import CqlTiers  # noqa: PLC0415
    from graph_svc.adapters.users_cql import CqlUsers  # noqa: PLC0415
    from graph_svc.adapters.versions_cql import Versions  # noqa: PLC0415

    async with (
        open_keyspace(url, "graph_svc.adapters") as cql,
        worker_lease(CqlWorkerLeases(cql), claim, clock, SystemRandomness()) as lease,
    ):
        ids = lease.ids
        versions = Versions(ids)
        outbox = CqlOutbox(cql, graph_sources(versions), clock, worker=ids.node)
        await outbox.register()
        yield Store(
            users=CqlUsers(cql, ids),
            edges=CqlEdges(cql, Changes(cql, outbox, versions), ids),
            followers=CqlFollowers(cql),
            tiers=CqlTiers(cql, versions),
            record_rows=CqlRecordRows(cql),
            outbox=outbox,
            lease=lease,
        )

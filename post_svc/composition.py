"""Builds the post service; the only module that knows which adapter is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from feedmesh.post.v1 import post_internal_service_pb2, post_service_pb2

from foundation.card_changes import RedisCardChanges
from foundation.events.outbox import Outbox, Publisher
from foundation.events.sql_outbox import SqlOutbox
from foundation.leases.sql_leases import SqlWorkerLeases
from foundation.leases.worker_lease import Claim, WorkerLease, worker_lease
from foundation.list_cursors import ListCursors
from foundation.model.clock import Clock, SystemClock, SystemRandomness
from foundation.people import ReadThroughPeople
from foundation.rpc.admission import Priority
from foundation.rpc.channels import internal_channel
from foundation.rpc.server import Access, Server, Service, build_server
from foundation.runtime.resources import open_log, open_redis
from foundation.seal import Sealer
from foundation.sql.database import open_database
from foundation.timeline.redis import AUTHOR_POSTS, RedisTimelines
from post_svc.adapters.cards_redis import RedisCards
from post_svc.adapters.known_authors import KnownAuthors
from post_svc.adapters.posts_sql import SqlPosts
from post_svc.adapters.tables import OPEN_SLOTS, POST_CHANGES, POST_TABLES, POSTS, WORKER_LEASES
from post_svc.edge.handlers import PostHandlers
from post_svc.edge.internal_handlers import PostInternalHandlers
from post_svc.flows.change_post import ChangePost
from post_svc.flows.create_posts import CreatePosts
from post_svc.flows.fill_author_posts import FillAuthorPosts
from post_svc.flows.read_posts import ReadPosts
from post_svc.ports import Posts
from post_svc.settings import Settings


@asynccontextmanager
async def compose(settings: Settings) -> AsyncIterator[Server]:
    """The started service; torn down in reverse order."""
    mesh = settings.mesh
    clock = SystemClock()
    randomness = SystemRandomness()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(mesh))
        log = await stack.enter_async_context(open_log(mesh))
        open_store = _cql_store if settings.database_url.startswith("cassandra:") else _sql_store
        store = await stack.enter_async_context(open_store(settings.database_url, mesh.claim("post_svc"), clock))
        posts, ids = store.posts, store.lease.ids
        graph = await stack.enter_async_context(internal_channel(mesh.graph_svc, mesh.internal_key))
        publisher = Publisher(
            log, store.outbox, clock, service="post_svc", worker=ids.node, sweep_every_s=mesh.sweep_every_s
        )
        store.lease.when_interrupted = publisher.take_over_again
        cards = RedisCards(redis, RedisCardChanges(redis, randomness))
        people = ReadThroughPeople(redis, graph)
        author_posts = RedisTimelines(redis, AUTHOR_POSTS)
        fill_author_posts = FillAuthorPosts(posts=posts, timelines=author_posts, clock=clock, randomness=randomness)
        create_posts = CreatePosts(
            posts=posts,
            people=KnownAuthors(people, clock),
            cards=cards,
            author_posts=author_posts,
            fill_author_posts=fill_author_posts,
            outbox=publisher,
            ids=ids,
            clock=clock,
            readers_timeout_s=settings.author_timeout_ms / 1000,
        )
        sealer = Sealer({1: bytes.fromhex(settings.cursor_key)}, 1, randomness)
        public = PostHandlers(
            create_posts=create_posts,
            change_post=ChangePost(posts=posts, cards=cards, outbox=publisher, ids=ids),
            read_posts=ReadPosts(posts=posts, people=people, cards=cards),
            cursors=ListCursors(sealer, clock, "ListUserPosts"),
        )
        internal = PostInternalHandlers(
            posts=posts, cards=cards, create_posts=create_posts, fill_author_posts=fill_author_posts
        )
        server = build_server(
            mesh.server_settings(),
            [
                Service(
                    post_service_pb2.DESCRIPTOR.services_by_name["PostService"],
                    public,
                    Access.USER,
                    priorities=dict.fromkeys(("CreatePost", "UpdatePost", "DeletePost"), Priority.CRITICAL),
                ),
                Service(
                    post_internal_service_pb2.DESCRIPTOR.services_by_name["PostInternalService"],
                    internal,
                    Access.INTERNAL,
                    priorities={"ImportPosts": Priority.BULK},
                ),
            ],
            auth=mesh.authenticator(clock),
            clock=clock,
            ids=ids,
        )
        await stack.enter_async_context(publisher.running())
        await server.start()
        stack.push_async_callback(server.stop, 5.0)
        yield server


@dataclass(frozen=True, kw_only=True)
class Store:
    """The adapters over one store."""

    posts: Posts
    outbox: Outbox
    lease: WorkerLease


@asynccontextmanager
async def _sql_store(url: str, claim: Claim, clock: Clock) -> AsyncIterator[Store]:
    async with (
        open_database(url, POST_TABLES) as database,
        worker_lease(SqlWorkerLeases(database, WORKER_LEASES, clock), claim, clock, SystemRandomness()) as lease,
    ):
        outbox = SqlOutbox(database, OPEN_SLOTS, [POSTS, POST_CHANGES])
        yield Store(posts=SqlPosts(database), outbox=outbox, lease=lease)


@asynccontextmanager
async def _cql_store(url: str, claim: Claim, clock: Clock) -> AsyncIterator[Store]:
    # The extra `cluster` brings the driver; the embedded profile does without.
    from foundation.cql.migrations import open_keyspace  # noqa: PLC0415
    from foundation.events.cql_outbox import CqlOutbox  # noqa: PLC0415
    from foundation.leases.cql_leases import CqlWorkerLeases  # noqa: PLC0415
    from post_svc.adapters.posts_cql import CqlPosts, post_sources  # noqa: PLC0415

    async with (
        open_keyspace(url, "post_svc.adapters") as cql,
        worker_lease(CqlWorkerLeases(cql), claim, clock, SystemRandomness()) as lease,
    ):
        outbox = CqlOutbox(cql, post_sources(), clock, worker=lease.ids.node)
        await outbox.register()
        yield Store(posts=CqlPosts(cql, outbox, clock), outbox=outbox, lease=lease)

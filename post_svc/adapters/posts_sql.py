"""Posts over SQL: row, event and open sweep slot in one transaction."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from feedmesh.events.v1.post_events_pb2 import PostCreated, PostDeleted, PostUpdated
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from foundation.cards import TOMBSTONE_VERSION
from foundation.events.envelope import AnyEvent, encode
from foundation.events.outbox import slot_key
from foundation.events.port import POSTS_CREATED, POSTS_DELETED, POSTS_UPDATED, PRIVACY, Event
from foundation.events.sql_outbox import events_of, insert_or_ignore, topics_text
from foundation.model.clock import DAY_MS
from foundation.model.ids import MAX_ID
from foundation.sql.database import Database
from foundation.timeline.port import Timeline
from foundation.visibility import PostState
from post_svc.adapters.request_digest import digest
from post_svc.adapters.tables import OPEN_SLOTS, POST_CHANGES, POST_REQUESTS, POSTS
from post_svc.model import Changed, Created, CreateOutcome, Draft, NewPost, Patch, Post

IDS_PER_QUERY = 1_000


class SqlPosts:
    """post_svc.ports.Posts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, posts: Sequence[NewPost], *, now_ms: int) -> Sequence[Created]:
        # Encoded here, on the caller's thread: the writer thread only writes.
        rows = [_new_row(post) for post in posts]
        return await self._database.write(lambda connection: _create(connection, posts, rows, now_ms))

    async def get(self, post_ids: Sequence[int]) -> Mapping[int, Post]:
        def work(connection: Connection) -> dict[int, Post]:
            found: dict[int, Post] = {}
            for start in range(0, len(post_ids), IDS_PER_QUERY):
                chunk = list(post_ids[start : start + IDS_PER_QUERY])
                for row in connection.execute(select(POSTS).where(POSTS.c.post_id.in_(chunk))):
                    found[row.post_id] = _post(row)
            return found

        return await self._database.read(work)

    async def update(self, post_id: int, author_id: int, patch: Patch, *, change_id: int) -> Changed | None:
        return await self._database.write(lambda connection: _update(connection, post_id, author_id, patch, change_id))

    async def delete(self, post_id: int, author_id: int, *, change_id: int) -> Changed | None:
        return await self._database.write(lambda connection: _delete(connection, post_id, author_id, change_id))

    async def by_author(self, author_id: int, *, before_id: int, limit: int) -> Sequence[Post]:
        query = select(POSTS).where(POSTS.c.author_id == author_id, POSTS.c.state == PostState.ACTIVE)
        if before_id:
            query = query.where(POSTS.c.post_id < before_id)
        query = query.order_by(POSTS.c.post_id.desc()).limit(limit)
        return await self._database.read(lambda connection: [_post(row) for row in connection.execute(query)])

    async def recent(
        self, author_ids: Sequence[int], *, after_id: int, limit: int, before_id: int = MAX_ID
    ) -> Mapping[int, Timeline]:
        def work(connection: Connection) -> dict[int, Timeline]:
            found: dict[int, list[int]] = defaultdict(list)
            for start in range(0, len(author_ids), IDS_PER_QUERY):
                chunk = list(author_ids[start : start + IDS_PER_QUERY])
                place = func.row_number().over(partition_by=POSTS.c.author_id, order_by=POSTS.c.post_id.desc())
                ranked = (
                    select(POSTS.c.author_id, POSTS.c.post_id, place.label("place"))
                    .where(
                        POSTS.c.author_id.in_(chunk),
                        POSTS.c.post_id > after_id,
                        POSTS.c.post_id < before_id,
                        POSTS.c.state == PostState.ACTIVE,
                    )
                    .subquery()
                )
                # One more than asked: it tells the floor.
                query = select(ranked).where(ranked.c.place <= limit + 1).order_by(ranked.c.post_id.desc())
                for row in connection.execute(query):
                    found[row.author_id].append(row.post_id)
            return {author_id: _timeline(found.get(author_id, []), after_id, limit) for author_id in author_ids}

        return await self._database.read(work)


def _timeline(ids: list[int], after_id: int, limit: int) -> Timeline:
    return Timeline(ids[:limit], ids[limit] if len(ids) > limit else after_id)


def _post(row: Row[Any]) -> Post:
    draft = Draft(row.caption, tuple(json.loads(row.hashtags)) if row.hashtags else (), row.location_id)
    return Post(row.post_id, row.author_id, draft, PostState(row.state), row.version)


def _event_row(event: AnyEvent, topics: Sequence[str], change_id: int, author_id: int, version: int) -> dict[str, Any]:
    key = slot_key(change_id)
    return {
        "slot": key.slot,
        "worker": key.worker,
        "event_topics": topics_text(topics),
        "event_key": author_id,
        "event_value": encode(event, event_id=change_id, version=version),
    }


def _new_row(post: NewPost) -> dict[str, Any]:
    event = PostCreated(
        post_id=post.post_id,
        author_id=post.author_id,
        caption_length=len(post.draft.caption),
        hashtag_count=len(post.draft.hashtags),
        author_tier=post.author_tier,
        author_followers=post.author_followers,
    )
    return {
        "post_id": post.post_id,
        "author_id": post.author_id,
        "caption": post.draft.caption,
        "hashtags": json.dumps(post.draft.hashtags) if post.draft.hashtags else "",
        "location_id": post.draft.location_id,
        "state": PostState.ACTIVE,
        "version": 1,
        **_event_row(event, [POSTS_CREATED], post.post_id, post.author_id, 1),
    }


def _create(
    connection: Connection, posts: Sequence[NewPost], rows: Sequence[dict[str, Any]], now_ms: int
) -> list[Created]:
    created: list[Created] = []
    wanted: list[dict[str, Any]] = []
    for post, row in zip(posts, rows, strict=True):
        if post.request_id:
            earlier = _earlier(connection, post, now_ms)
            if earlier is not None:
                created.append(earlier)
                continue
            connection.execute(
                insert(POST_REQUESTS).values(
                    author_id=post.author_id,
                    request_id=post.request_id,
                    digest=digest(post.draft),
                    post_id=post.post_id,
                    created_ms=now_ms,
                )
            )
        wanted.append(row)
        created.append(Created(CreateOutcome.CREATED, post.post_id, _events(row)))
    if wanted:
        connection.execute(insert(POSTS), wanted)
        _open_slots(connection, wanted)
    return created


def _events(row: dict[str, Any]) -> list[Event]:
    return events_of(row["event_topics"], row["event_key"], row["event_value"])


def _open_slots(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    slots = {(row["slot"], row["worker"]) for row in rows}
    insert_or_ignore(connection, OPEN_SLOTS, [{"slot": slot, "worker": worker} for slot, worker in slots])


def _earlier(connection: Connection, post: NewPost, now_ms: int) -> Created | None:
    connection.execute(delete(POST_REQUESTS).where(POST_REQUESTS.c.created_ms < now_ms - DAY_MS))
    row = connection.execute(
        select(POST_REQUESTS).where(
            POST_REQUESTS.c.author_id == post.author_id, POST_REQUESTS.c.request_id == post.request_id
        )
    ).first()
    if row is None:
        return None
    same = row.digest == digest(post.draft)
    return Created(CreateOutcome.REPEATED if same else CreateOutcome.REQUEST_MISMATCH, row.post_id)


def _owned(connection: Connection, post_id: int, author_id: int) -> Post | None:
    row = connection.execute(select(POSTS).where(POSTS.c.post_id == post_id, POSTS.c.author_id == author_id)).first()
    return _post(row) if row is not None else None


def _update(connection: Connection, post_id: int, author_id: int, patch: Patch, change_id: int) -> Changed | None:
    post = _owned(connection, post_id, author_id)
    if post is None or post.state is not PostState.ACTIVE:
        return None
    old = post.draft
    draft = Draft(
        old.caption if patch.caption is None else patch.caption,
        old.hashtags if patch.hashtags is None else patch.hashtags,
        old.location_id if patch.location_id is None else patch.location_id,
    )
    if draft == old:
        return Changed(post)
    changed = Post(post_id, author_id, draft, PostState.ACTIVE, post.version + 1)
    connection.execute(
        update(POSTS)
        .where(POSTS.c.post_id == post_id)
        .values(
            caption=draft.caption,
            hashtags=json.dumps(draft.hashtags) if draft.hashtags else "",
            location_id=draft.location_id,
            version=changed.version,
        )
    )
    event = PostUpdated(
        post_id=post_id,
        author_id=author_id,
        caption_length=len(draft.caption),
        hashtag_count=len(draft.hashtags),
    )
    return _noted(connection, changed, event, [POSTS_UPDATED], change_id)


def _delete(connection: Connection, post_id: int, author_id: int, change_id: int) -> Changed | None:
    post = _owned(connection, post_id, author_id)
    if post is None:
        return None
    deleted = Post(post_id, author_id, post.draft, PostState.DELETED, TOMBSTONE_VERSION)
    if post.state is PostState.DELETED:
        return Changed(deleted)
    connection.execute(
        update(POSTS).where(POSTS.c.post_id == post_id).values(state=PostState.DELETED, version=TOMBSTONE_VERSION)
    )
    event = PostDeleted(post_id=post_id, author_id=author_id)
    return _noted(connection, deleted, event, [POSTS_DELETED, PRIVACY], change_id)


def _noted(connection: Connection, post: Post, event: AnyEvent, topics: Sequence[str], change_id: int) -> Changed:
    row = {"change_id": change_id, **_event_row(event, topics, change_id, post.author_id, post.version)}
    connection.execute(insert(POST_CHANGES).values(row))
    _open_slots(connection, [row])
    return Changed(post, _events(row))

"""Posts over Cassandra or ScyllaDB: row, event and sweep index in one single-partition write.

Every write carries the time of the id it belongs to, so repeating it, late or often, changes nothing that was decided
later. A create is two idempotent writes (`posts`, `posts_by_author`) in one request and is answered after both: sent
singly they cost this process 330 µs instead of 190, and the store 500 instead of 340. A change
is first written down whole (`post_changes`, with its event), then applied: the sweeper completes what a crash left
half-done before it publishes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from feedmesh.events.v1.post_events_pb2 import PostCreated, PostDeleted, PostUpdated

from foundation.cards import TOMBSTONE_VERSION
from foundation.cql.session import UNSET, Call, Cql, Row, Statement
from foundation.cql.write_time import write_time
from foundation.events.cql_outbox import CqlOutbox, Source, event_row
from foundation.events.envelope import AnyEvent, encode
from foundation.events.outbox import slot_key
from foundation.events.port import POSTS_CREATED, POSTS_DELETED, POSTS_UPDATED, PRIVACY, Event
from foundation.model.clock import DAY_MS, Clock
from foundation.model.ids import EPOCH_MS, MAX_ID, created_ms
from foundation.timeline.port import Timeline
from foundation.visibility import PostState
from post_svc.adapters.request_digest import digest
from post_svc.model import Changed, Created, CreateOutcome, Draft, NewPost, Patch, Post

KEPT_S = 365 * 86_400
"""How long posts live."""
MONTHS_AT_ONCE = 3
"""Months of an author that are listed before older ones are looked at."""
SPARE = 8
"""Ids read beyond those asked for, since a deleted post may be listed for a moment."""
_CREATED_VERSION = 1

_INSERT = Statement(
    "INSERT INTO posts (slot, worker, post_id, author_id, caption, hashtags, location_id, state, version,"
    " event_topics, event_key, event_value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_LIST = Statement(
    "INSERT INTO posts_by_author (author_id, month, post_id) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_UNLIST = Statement("DELETE FROM posts_by_author USING TIMESTAMP ? WHERE author_id = ? AND month = ? AND post_id = ?")
_NOTE = Statement(
    "INSERT INTO post_changes (slot, worker, change_id, event_topics, event_key, event_value, post_id, author_id,"
    " caption, hashtags, location_id, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_SET = {
    name: Statement(
        f"UPDATE posts USING TTL ? AND TIMESTAMP ? SET {name} = ?, version = ?"  # noqa: S608 - names of ours
        " WHERE slot = ? AND worker = ? AND post_id = ?"
    )
    for name in ("caption", "hashtags", "location_id", "state")
}
_GET = Statement(
    "SELECT post_id, author_id, caption, hashtags, location_id, state, version"
    " FROM posts WHERE slot = ? AND worker = ? AND post_id IN ?"
)
_OF_AUTHOR = Statement(
    "SELECT post_id FROM posts_by_author WHERE author_id = ? AND month = ? AND post_id > ? AND post_id < ? LIMIT ?"
)
_CLAIM = Statement(
    "INSERT INTO post_requests (author_id, request_id, digest, post_id, created_ms) VALUES (?, ?, ?, ?, ?)"
    " IF NOT EXISTS",
    idempotent=False,
)
_CLAIM_AGAIN = Statement(
    "UPDATE post_requests SET digest = ?, post_id = ?, created_ms = ? WHERE author_id = ? AND request_id = ?"
    " IF post_id = ?",
    idempotent=False,
)
_CREATED_EVENTS = Statement(
    "SELECT event_topics, event_key, event_value, author_id, post_id FROM posts WHERE slot = ? AND worker = ?"
)
_CHANGE_EVENTS = Statement(
    "SELECT event_topics, event_key, event_value, author_id, post_id, change_id, caption, hashtags, location_id, state"
    " FROM post_changes WHERE slot = ? AND worker = ?"
)


def post_sources() -> Sequence[Source]:
    """What is swept, and how a half-done row is completed."""

    def finish_create(row: Row) -> Sequence[Call]:
        author_id, post_id = row[3:5]
        return [_listed(author_id, post_id)] if author_id is not None else []

    def finish_change(row: Row) -> Sequence[Call]:
        author_id, post_id, change_id, caption, hashtags, location_id, state = row[3:10]
        values = {"caption": caption, "hashtags": hashtags, "location_id": location_id, "state": state}
        changed = {name: value for name, value in values.items() if value is not None}
        return _applied(author_id, post_id, change_id, changed)

    return [Source(_CREATED_EVENTS, finish_create), Source(_CHANGE_EVENTS, finish_change)]


class CqlPosts:
    """post_svc.ports.Posts."""

    def __init__(self, cql: Cql, outbox: CqlOutbox, clock: Clock) -> None:
        self._cql = cql
        self._outbox = outbox
        self._clock = clock

    async def create(self, posts: Sequence[NewPost], *, now_ms: int) -> Sequence[Created]:
        outcomes: list[Created] = []
        writes: list[Sequence[Call]] = []
        written: list[int] = []
        for post in posts:
            outcome, post_id = CreateOutcome.CREATED, post.post_id
            if post.request_id:
                outcome, post_id = await self._claim(post, now_ms)
            if outcome is not CreateOutcome.CREATED:
                outcomes.append(Created(outcome, post_id))
                continue
            event = _created_event(post, post_id)
            writes.append(creation(post, post_id, event))
            written.append(post_id)
            outcomes.append(Created(outcome, post_id, [Event(POSTS_CREATED, post.author_id, event)]))
        if writes:
            await self._outbox.before_writing(written)
            await self._cql.together(writes)
        return outcomes

    async def get(self, post_ids: Sequence[int]) -> Mapping[int, Post]:
        partitions: dict[tuple[int, int], list[int]] = defaultdict(list)
        for post_id in post_ids:
            key = slot_key(post_id)
            partitions[key.slot, key.worker].append(post_id)
        answers = await self._cql.execute_all([(_GET, (*where, ids)) for where, ids in partitions.items()])
        found = (_post(row) for rows in answers for row in rows)
        return {post.post_id: post for post in found if post is not None}

    async def update(self, post_id: int, author_id: int, patch: Patch, *, change_id: int) -> Changed | None:
        post = await self._owned(post_id, author_id)
        if post is None or post.state is not PostState.ACTIVE:
            return None
        old = post.draft
        changed: dict[str, object] = {}
        if patch.caption is not None and patch.caption != old.caption:
            changed["caption"] = patch.caption
        if patch.hashtags is not None and patch.hashtags != old.hashtags:
            changed["hashtags"] = json.dumps(patch.hashtags)
        if patch.location_id is not None and patch.location_id != old.location_id:
            changed["location_id"] = patch.location_id
        if not changed:
            return Changed(post)
        caption = old.caption if patch.caption is None else patch.caption
        hashtags = old.hashtags if patch.hashtags is None else patch.hashtags
        event = PostUpdated(
            post_id=post_id, author_id=author_id, caption_length=len(caption), hashtag_count=len(hashtags)
        )
        events = await self._change(post, change_id, changed, event, change_id, [POSTS_UPDATED])
        # Read again: another change may have been made at the same time, and readers must be told of both.
        return Changed((await self.get([post_id]))[post_id], events)

    async def delete(self, post_id: int, author_id: int, *, change_id: int) -> Changed | None:
        post = await self._owned(post_id, author_id)
        if post is None:
            return None
        deleted = Post(post_id, author_id, post.draft, PostState.DELETED, TOMBSTONE_VERSION)
        if post.state is PostState.DELETED:
            return Changed(deleted)
        event = PostDeleted(post_id=post_id, author_id=author_id)
        changed: dict[str, object] = {"state": int(PostState.DELETED)}
        events = await self._change(post, change_id, changed, event, TOMBSTONE_VERSION, [POSTS_DELETED, PRIVACY])
        return Changed(deleted, events)

    async def by_author(self, author_id: int, *, before_id: int, limit: int) -> Sequence[Post]:
        now_ms = self._clock.now_ms()
        newest_ms = min(now_ms, created_ms(before_id)) if before_id else now_ms
        months = _months(max(EPOCH_MS, now_ms - KEPT_S * 1_000), newest_ms)
        posts: list[Post] = []
        for start in range(0, len(months), MONTHS_AT_ONCE):
            some = months[start : start + MONTHS_AT_ONCE]
            below = before_id or 2**63 - 1
            while len(posts) < limit:
                wanted = limit - len(posts) + SPARE
                ids = await self._ids_of([author_id], some, after_id=0, before_id=below, limit=wanted)
                found = await self.get(ids[author_id])
                posts += [
                    found[post_id]
                    for post_id in ids[author_id]
                    if post_id in found and found[post_id].state is PostState.ACTIVE
                ]
                if len(ids[author_id]) < wanted:
                    break
                below = ids[author_id][-1]
            if len(posts) >= limit:
                break
        return posts[:limit]

    async def recent(
        self, author_ids: Sequence[int], *, after_id: int, limit: int, before_id: int = MAX_ID
    ) -> Mapping[int, Timeline]:
        newest_ms = min(created_ms(before_id), self._clock.now_ms())
        months = _months(max(EPOCH_MS, created_ms(after_id)), newest_ms)
        # One more than asked: it tells the floor.
        ids = await self._ids_of(author_ids, months, after_id=after_id, before_id=before_id, limit=limit + 1)
        return {
            author_id: Timeline(
                ids[author_id][:limit], ids[author_id][limit] if len(ids[author_id]) > limit else after_id
            )
            for author_id in author_ids
        }

    async def _ids_of(
        self, author_ids: Sequence[int], months: Sequence[int], *, after_id: int, before_id: int, limit: int
    ) -> dict[int, list[int]]:
        """The newest ids of each author between the bounds, at most *limit*; *months* newest first."""
        calls = [
            (_OF_AUTHOR, (author_id, month, after_id, before_id, limit)) for author_id in author_ids for month in months
        ]
        answers = iter(await self._cql.execute_all(calls))
        return {author_id: [row[0] for _ in months for row in next(answers)][:limit] for author_id in author_ids}

    async def _owned(self, post_id: int, author_id: int) -> Post | None:
        post = (await self.get([post_id])).get(post_id)
        return post if post is not None and post.author_id == author_id else None

    async def _change(
        self,
        post: Post,
        change_id: int,
        changed: Mapping[str, object],
        event: AnyEvent,
        version: int,
        topics: Sequence[str],
    ) -> list[Event]:
        """Note the change with its event, then apply it."""
        key = slot_key(change_id)
        value = encode(event, event_id=change_id, version=version)
        columns = [changed.get(name, UNSET) for name in ("caption", "hashtags", "location_id", "state")]
        noted = (
            key.slot, key.worker, change_id, *event_row(topics, post.author_id, value),
            post.post_id, post.author_id, *columns, write_time(change_id),
        )  # fmt: skip
        await self._outbox.before_writing([change_id])
        await self._cql.execute(_NOTE, noted)
        await self._cql.execute_all(_applied(post.author_id, post.post_id, change_id, changed))
        return [Event(topic, post.author_id, value) for topic in topics]

    async def _claim(self, post: NewPost, now_ms: int) -> tuple[CreateOutcome, int]:
        """What a request id stands for, and the id of its post. CREATED: the post is still to be written."""
        mine = digest(post.draft)
        who = (post.author_id, post.request_id)
        row = (await self._cql.execute(_CLAIM, (*who, mine, post.post_id, now_ms)))[0]
        if row[0]:
            return CreateOutcome.CREATED, post.post_id
        # Not applied: the columns of the row that is there follow, in the order of the table's definition.
        _, _, _, claimed_ms, theirs, claimed_id = row
        if claimed_ms is not None and claimed_ms < now_ms - DAY_MS:
            again = (mine, post.post_id, now_ms, *who, claimed_id)
            if (await self._cql.execute(_CLAIM_AGAIN, again))[0][0]:
                return CreateOutcome.CREATED, post.post_id
            return await self._claim(post, now_ms)
        if theirs != mine:
            return CreateOutcome.REQUEST_MISMATCH, claimed_id
        if claimed_id in await self.get([claimed_id]):
            return CreateOutcome.REPEATED, claimed_id
        # Whoever claimed it did not come to write: the post is made now, under the id that was promised.
        return CreateOutcome.CREATED, claimed_id


def _created_event(post: NewPost, post_id: int) -> bytes:
    event = PostCreated(
        post_id=post_id,
        author_id=post.author_id,
        caption_length=len(post.draft.caption),
        hashtag_count=len(post.draft.hashtags),
        author_tier=post.author_tier,
        author_followers=post.author_followers,
    )
    return encode(event, event_id=post_id, version=_CREATED_VERSION)


def creation(post: NewPost, post_id: int, event: bytes) -> Sequence[Call]:
    """The statements that make a post."""
    return [_inserted(post, post_id, event), _listed(post.author_id, post_id)]


def _inserted(post: NewPost, post_id: int, event: bytes) -> Call:
    key = slot_key(post_id)
    draft = post.draft
    hashtags = json.dumps(draft.hashtags) if draft.hashtags else ""
    return _INSERT, (
        key.slot, key.worker, post_id, post.author_id, draft.caption, hashtags, draft.location_id,
        int(PostState.ACTIVE), _CREATED_VERSION, *event_row([POSTS_CREATED], post.author_id, event),
        write_time(post_id), KEPT_S,
    )  # fmt: skip


def _listed(author_id: int, post_id: int) -> Call:
    return _LIST, (author_id, _month(created_ms(post_id)), post_id, write_time(post_id), KEPT_S)


def _applied(author_id: int, post_id: int, change_id: int, changed: Mapping[str, object]) -> list[Call]:
    """Only the cells that changed: two changes of different fields at the same time are both kept."""
    left_s = KEPT_S - (created_ms(change_id) - created_ms(post_id)) // 1_000
    if left_s <= 0:
        return []
    key = slot_key(post_id)
    at = write_time(change_id)
    calls: list[Call] = [
        (_SET[name], (left_s, at, value, change_id, key.slot, key.worker, post_id)) for name, value in changed.items()
    ]
    if changed.get("state") == PostState.DELETED:
        calls.append((_UNLIST, (at, author_id, _month(created_ms(post_id)), post_id)))
    return calls


def _post(row: Row) -> Post | None:
    post_id, author_id, caption, hashtags, location_id, state, version = row
    if author_id is None:
        return None  # what is left of a row whose first cells have expired
    found = PostState(state)
    draft = Draft(caption or "", tuple(json.loads(hashtags)) if hashtags else (), location_id or "")
    return Post(post_id, author_id, draft, found, TOMBSTONE_VERSION if found is PostState.DELETED else version)


def _month(ms: int) -> int:
    """Year and month in UTC, as in 202611."""
    moment = datetime.fromtimestamp(ms / 1_000, UTC)
    return moment.year * 100 + moment.month


def _months(oldest_ms: int, newest_ms: int) -> list[int]:
    """Every month from the newest down to the oldest."""
    months = []
    month, last = _month(newest_ms), _month(oldest_ms)
    while month >= last:
        months.append(month)
        month = month - 1 if month % 100 > 1 else month - 89
    return months

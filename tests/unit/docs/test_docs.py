"""What the documents say is so: error reasons are listed, keys and tables exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from fanout_worker.adapters.pressure_redis import LAGS
from feed_svc.adapters.presence_redis import last_active_key
from feed_svc.adapters.seen_redis import seen_key
from feed_svc.adapters.tables import FEED_TABLES
from foundation.cards import author_key, card_key
from foundation.events.port import TOPICS
from foundation.events.sql_log import LOG_TABLES
from foundation.features import features_key
from foundation.recommendations import recommendations_key
from foundation.timeline.gaps import gap_keys
from foundation.timeline.redis import AUTHOR_POSTS, FEED, route_key
from foundation.viewers import viewer_key
from graph_svc.adapters.tables import GRAPH_TABLES
from post_svc.adapters.tables import POST_TABLES
from tools.degradation_page import PAGE, page

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("foundation", "feed_svc", "post_svc", "graph_svc", "rank_svc", "fanout_worker")
RAISED = re.compile(
    r"(?:InvalidArgument|Unauthenticated|PermissionDenied|NotFound|AlreadyExists|FailedPrecondition|Exhausted)"
    r"\(\s*\"([A-Z_]+)\""
)


def test_every_reason_that_callers_can_see_is_listed() -> None:
    listed = (ROOT / "docs" / "errors.md").read_text()
    raised = {
        reason for room in ROOMS for path in (ROOT / room).rglob("*.py") for reason in RAISED.findall(path.read_text())
    }
    assert len(raised) > 10
    assert not {reason for reason in raised if f"{reason}" not in listed}


def test_every_table_topic_and_key_is_listed() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    tables = {name for metadata in (GRAPH_TABLES, POST_TABLES, FEED_TABLES, LOG_TABLES) for name in metadata.tables}
    missing = {name for name in tables - {"user_requests", "post_requests", "graph_changes"} if name not in text}
    assert not missing
    assert not {topic for topic in TOPICS if topic not in text}
    keys = [card_key(1), author_key(1), features_key(1), viewer_key(1), seen_key(1), f"{FEED}:", f"{AUTHOR_POSTS}:"]
    keys += [gap_keys()[0], route_key(1), LAGS, recommendations_key(1), last_active_key(1)]
    assert not {key for key in keys if f"`{key.split(':')[0]}:" not in text}


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_measurements_that_the_documents_name_are_kept() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"\d{4}-\d\d-\d\d-[a-z-]+\.(?:json|txt)", document.read_text()):
            assert (ROOT / "bench" / "results" / name).exists(), f"{document.name}: {name}"


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(r"[a-z_]+(?:/[a-z_]+)+\.py", text):
        candidates = [ROOT / path, ROOT / "feed_svc" / path]
        assert any(candidate.exists() for candidate in candidates), path


def test_the_page_of_degradation_is_the_table() -> None:
    assert PAGE.read_text() == page(), "python tools/degradation_page.py"

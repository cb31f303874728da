"""`feedmesh explain`: why a post is where it is in somebody's feed, in words and numbers."""

from __future__ import annotations

import json
from typing import Any

from feedmesh_cli.calling import call
from feedmesh_cli.mesh_file import Mesh
from feedmesh_cli.tokens import token_for

TIMEOUT_S = 10.0
METHOD = "feedmesh.feed.v1.FeedService/ExplainFeedItem"


async def explain(mesh: Mesh, post_id: int, user: str) -> dict[str, Any]:
    """The answer of ExplainFeedItem. Raises CliError."""
    token = (await token_for(mesh, user)).token
    body = json.dumps({"post_id": str(post_id)})
    answers = [answer async for answer in call(mesh.edge_address, METHOD, body, token=token, timeout_s=TIMEOUT_S)]
    found: dict[str, Any] = json.loads(answers[0].json)
    return found


def as_text(found: dict[str, Any]) -> str:
    """The answer for people."""
    place = {
        "HEAD": f"slot {found['slot']} of the head",
        "TAIL": "after the head, newest first",
        "NOT_IN_FEED": "nowhere in the feed",
    }[found["place"]]
    source = {
        "PUSHED": "pushed into the list",
        "PULLED": "pulled from its author",
        "RECOMMENDED": "recommended",
        "OWN": "one's own",
    }.get(found["source"], "of nobody who is followed")
    lines = [f"post {found['post_id']}: {place}", f"  {found['decision']}", f"  source: {source}"]
    if found["model_version"]:
        quick, model = found["quick_place"] or "no candidate", found["model_place"] or "left out by stage 1"
        lines += [
            f"  stage 1: {found['quick_score']:.4f}  place: {quick}",
            f"  stage 2: {found['model_score']:.4f}  place: {model}  ({found['model_version']})",
        ]
        lines += [f"    {feature['name']:<30} {feature['value']:.4g}" for feature in found["features"]]
    else:
        lines.append("  ranking did not answer: a feed made now is newest first")
    lines += [
        f"  {stage['name']:<10} {stage['milliseconds']:7.2f} ms  kept {stage['kept']}" for stage in found["stages"]
    ]
    return "\n".join(lines)

"""The write path's second half: delivers posts into the timelines of followers.

Consumes posts.created (fan-out) and graph.by_follower (backfill of a new follow). At least once in, exactly once in
effect: a timeline holds an id once however often it is pushed. Owns `feed:{u}`; asks graph_svc for followers.
"""

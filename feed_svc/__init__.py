"""The read path: pages of the home feed.

Owns the frozen heads (`session:{u}`), what was seen (`seen:{u}`) and where users were (table feed_positions), and
rebuilds cold timelines (`feed:{u}`). Reads viewer records, timelines,
cards and author records from Redis; asks graph_svc and post_svc only when a read model misses, and rank_svc once per
RANKED first page.
"""

"""A timeline: post ids strictly descending, then a floor F; it holds every id > F of its sources.

fanout_worker and post_svc write timelines, feed_svc reads and rebuilds them: the one data structure they share.
"""

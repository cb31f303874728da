"""Users and the social graph: accounts, follows, blocks, mutes, exact counts.

Owns the tables of graph.db, the viewer records (`viewer:{u}`) and author records (`author:{u}`) that reads stand on,
and the topics graph.by_followee, graph.by_follower and, for blocks, privacy. Calls no other service.
"""

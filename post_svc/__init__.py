"""Posts: written durably with their events, hidden for good when deleted, served as cards.

Owns the tables of posts.db, the cards (`card:{p}`), the author timelines (`author_posts:{a}`) and the topics
posts.created, posts.updated, posts.deleted and, for deletes, privacy. Asks graph_svc for viewer and author records
when Redis misses.
"""

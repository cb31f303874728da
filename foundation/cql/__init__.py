"""Cassandra or ScyllaDB behind an event loop: sessions, migrations, the outbox. Needs the extra `cluster`."""

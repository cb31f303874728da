"""The ports over SQL and Redis."""

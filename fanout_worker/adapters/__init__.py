"""The ports over Redis and gRPC."""

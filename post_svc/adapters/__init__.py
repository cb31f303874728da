"""The ports over SQL, Redis and gRPC."""

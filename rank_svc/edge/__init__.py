"""The way in: RankService over gRPC, and records of the event log."""

"""The way in: FeedService over gRPC."""

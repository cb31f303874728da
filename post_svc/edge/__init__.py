"""The way in: PostService and PostInternalService over gRPC."""

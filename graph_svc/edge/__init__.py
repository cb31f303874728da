"""The way in: GraphService, UserService, GraphInternalService over gRPC, and records of the event log."""

"""gRPC for every service: one server wrapper over two engines, authentication, deadlines, errors, client channels."""

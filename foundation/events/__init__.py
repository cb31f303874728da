"""Events between services: the log port, its adapters, the consumer loop and the sweeper of unpublished events."""

"""Redis or Valkey, by the cluster protocol only: a multiplexed client for the hot path, scripts, versioned records."""

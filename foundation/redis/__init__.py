"""Redis or Valkey, always by the cluster protocol: a multiplexed client for the hot path, scripts, versioned records."""

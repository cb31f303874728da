"""Pure steps of the flows."""

"""Pure steps of longer flows."""

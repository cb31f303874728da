"""How a service speaks to its operators: logs and metrics."""

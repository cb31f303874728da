"""Plain values that cross ports: ids, time, sealed cursors."""

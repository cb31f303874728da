"""The way in: records of the event log."""

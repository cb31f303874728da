"""Decisions of delivery, without any effect."""

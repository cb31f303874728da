"""The garbage collector of a service: what start-up made is never looked at again, young garbage may pile up.

Requests make thousands of short-lived objects and no cycles to speak of; with the default threshold the collector runs
several times per request over caches that live for ever.
"""

from __future__ import annotations

import gc

YOUNG = 50_000
"""Allocations between collections of the youngest generation."""


def settle() -> None:
    """Call once everything is started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)

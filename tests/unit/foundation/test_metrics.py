"""The histogram of what happens by the thousand."""

from __future__ import annotations

from prometheus_client import REGISTRY

from foundation.telemetry.metrics import WeightedHistogram


def test_observations_are_counted_once_each_and_borders_are_included() -> None:
    histogram = WeightedHistogram("test_age_seconds", "A test.", (1.0, 30.0))
    try:
        assert histogram.share_up_to(30.0) == 1.0, "nothing was late"
        histogram.add(0.5, 1_000)
        histogram.add(1.0, 1)
        histogram.add(30.0, 999)
        histogram.add(31.0, 2_000)
        (family,) = histogram.collect()
        found = {sample.name + str(sample.labels.get("le", "")): sample.value for sample in family.samples}
        assert found == {
            "test_age_seconds_bucket1.0": 1_001,
            "test_age_seconds_bucket30.0": 2_000,
            "test_age_seconds_bucket+Inf": 4_000,
            "test_age_seconds_count": 4_000,
            "test_age_seconds_sum": 500 + 1 + 30 * 999 + 62_000,
        }
        assert histogram.share_up_to(30.0) == 0.5
    finally:
        REGISTRY.unregister(histogram)

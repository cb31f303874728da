"""The steps of ranking: quick score, feature matrix."""

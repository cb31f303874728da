"""The steps of a page: candidates, arrangement, slate."""

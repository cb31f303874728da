"""`python -m feed_svc`: the feed service alone, settings from the environment."""

from feed_svc.composition import compose
from feed_svc.settings import Settings
from foundation.runtime.run import run

if __name__ == "__main__":
    run(compose, Settings)

"""`python -m feed_svc`: the feed service alone, settings from the environment."""

from foundation.runtime.run import run

from feed_svc.composition import compose
from feed_svc.settings import Settings

if __name__ == "__main__":
    run(compose, Settings)

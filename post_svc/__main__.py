"""`python -m post_svc`: the post service alone, settings from the environment."""

from foundation.runtime.run import run
from post_svc.composition import compose
from post_svc.settings import Settings

if __name__ == "__main__":
    run(compose, Settings)

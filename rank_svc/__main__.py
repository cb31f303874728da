"""`python -m rank_svc`: the rank service alone, settings from the environment."""

from foundation.runtime.run import run
from rank_svc.composition import compose
from rank_svc.settings import Settings

if __name__ == "__main__":
    run(compose, Settings)

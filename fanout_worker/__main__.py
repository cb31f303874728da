"""`python -m fanout_worker`: the worker alone, settings from the environment."""

from foundation.runtime.run import run

from fanout_worker.composition import compose
from fanout_worker.settings import Settings

if __name__ == "__main__":
    run(compose, Settings)

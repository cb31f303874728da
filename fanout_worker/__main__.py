"""`python -m fanout_worker`: the worker alone, settings from the environment."""

from fanout_worker.composition import compose
from fanout_worker.settings import Settings
from foundation.runtime.run import run

if __name__ == "__main__":
    run(compose, Settings)

"""`python -m graph_svc`: the graph service alone, settings from the environment."""

from foundation.runtime.run import run
from graph_svc.composition import compose
from graph_svc.settings import Settings

if __name__ == "__main__":
    run(compose, Settings)

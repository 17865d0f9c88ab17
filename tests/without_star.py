"""Runs a script as on a version of torch without the parts of a star: python3 tests/without_star.py SCRIPT FLAGS."""

import runpy
import sys

from training.engines.rpc import agents

if __name__ == "__main__":
    del sys.argv[0]
    agents.is_star_possible = lambda: False
    runpy.run_path(sys.argv[0], run_name="__main__")

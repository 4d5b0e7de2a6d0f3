"""`stockade bench kills` from a checkout: python benchmarks/kills.py [--kills 100]"""

import sys

from stockade.bench.command import run_benchmark

if __name__ == "__main__":
    sys.exit(run_benchmark("kills"))

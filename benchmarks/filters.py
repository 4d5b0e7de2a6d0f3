"""`stockade bench filters` from a checkout: python benchmarks/filters.py [--sizes 100,1000]"""

import sys

from stockade.bench.command import run_benchmark

if __name__ == "__main__":
    sys.exit(run_benchmark("filters"))

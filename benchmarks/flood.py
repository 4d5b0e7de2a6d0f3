"""`stockade bench flood` from a checkout: python benchmarks/flood.py [--rate 50000] [--seconds 10]"""

import sys

from stockade.bench.command import run_benchmark

if __name__ == "__main__":
    sys.exit(run_benchmark("flood"))

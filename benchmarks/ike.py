"""`stockade bench ike` from a checkout: python benchmarks/ike.py [--count 300] [--sections peers]"""

import sys

from stockade.bench.command import run_benchmark

if __name__ == "__main__":
    sys.exit(run_benchmark("ike"))

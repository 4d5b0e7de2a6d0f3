"""`stockade bench esp` from a checkout: python benchmarks/esp.py [--suites aes-gcm-128] …"""

import sys

from stockade.bench.command import run_benchmark

if __name__ == "__main__":
    sys.exit(run_benchmark("esp"))

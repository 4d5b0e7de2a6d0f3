"""Lets the tests of this tier import the helpers beside them, and the scenarios with strongSwan."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "peers")]

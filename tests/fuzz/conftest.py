"""Lets the targets use the laboratory of two engines (tests/exchange)."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "exchange"):
    sys.path.insert(0, str(folder))

"""The compiled burst path for tests, built from the sources at hand."""

from pathlib import Path

import pytest

from stockade.driver.burst import build


def built_in(folder: Path) -> Path:
    """The library. Skips the test where there is nothing to build it with."""
    made = folder / "libstockade_burst.so"
    refusal = build.build(made, ["-Werror"])
    if refusal is not None and ("no C compiler" in refusal or "openssl" in refusal):
        pytest.skip(f"cannot build the burst path: {refusal}")
    assert refusal is None, refusal
    return made

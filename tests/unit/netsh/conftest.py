"""A session over a real local store, and a helper that reads the lists of `show` back by their labels."""

from pathlib import Path

import pytest

from stockade.netsh.session import Session
from stockade.store.local import LocalStore


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(LocalStore(tmp_path / "policy.db"), ("ipsec", "static"))

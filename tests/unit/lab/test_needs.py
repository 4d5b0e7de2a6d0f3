"""Needs are asked once and answered in words; the tiers of the tests name them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stockade.lab import needs


@pytest.fixture(autouse=True)
def _fresh_answers() -> Iterator[None]:
    cached = [value for value in vars(needs).values() if hasattr(value, "cache_clear")]
    for answer in cached:
        answer.cache_clear()
    yield
    for answer in cached:
        answer.cache_clear()


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_program", lambda name: None)
    assert needs.nft_program() == "the program nft is not installed (Debian: nftables)"
    assert needs.ip_program() == "the program ip is not installed (Debian: iproute2)"
    assert needs.strongswan() == "strongSwan is not installed (no charon-systemd)"


def test_who_is_not_root_gets_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert needs.real_network() == "not root"
    assert needs.missing_for("host") == "not root"
    assert needs.missing_for("peers") == "not root"


def test_tiers_without_needs_always_run_also_unknown_ones() -> None:
    assert needs.missing_for("unit") is None
    assert needs.missing_for("no-such-tier") is None


def test_a_missing_device_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr("os.open", refuse)
    assert needs.tun_device() == "/dev/net/tun cannot be opened: No such file or directory"


def test_every_tier_that_has_a_folder_is_known() -> None:
    tests = Path(__file__).parents[2]
    folders = {entry.name for entry in tests.iterdir() if entry.is_dir() and any(entry.rglob("test_*.py"))}
    assert folders <= set(needs.TIERS)

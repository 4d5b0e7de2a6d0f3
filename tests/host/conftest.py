"""Real namespaces for tests: two hosts on one wire, removed whatever happens."""

from collections.abc import Iterator
from ipaddress import IPv4Interface

import pytest

from stockade.lab.netns import Network, sweep


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_of_killed_runs() -> None:
    """A run that was killed must not disturb this one, nor this one the next."""
    from stockade.lab.needs import real_network

    if real_network() is None:
        sweep()


@pytest.fixture
def wire() -> Iterator[Network]:
    """alpha (10.78.0.1) and beta (10.78.0.2) on one wire."""
    with Network({"alpha": IPv4Interface("10.78.0.1/24"), "beta": IPv4Interface("10.78.0.2/24")}) as network:
        yield network

"""The units of systemd allow what the programs do."""

import re
from configparser import ConfigParser
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
AGENT_ROOMS = ("agent", "driver", "ike", "pki", "store")


def test_the_agent_may_open_every_kind_of_socket_that_it_opens() -> None:
    """A family that the unit forgets is an agent that does not start, on systemd only."""
    used: set[str] = set()
    for room in AGENT_ROOMS:
        for path in (CHECKOUT / "src" / "stockade" / room).rglob("*.py"):
            used |= set(re.findall(r"socket\.(AF_[A-Z0-9]+)\b", path.read_text()))
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(CHECKOUT / "packaging" / "systemd" / "stockade.service")
    assert "AF_PACKET" in used
    assert used <= set(unit["Service"]["RestrictAddressFamilies"].split())

"""The command from a process that has loaded it (tests/support/command_line.py) is the command."""

from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Network

SHOW = "ipsec static\nadd filterlist name=a\nshow filterlist name=a\n"
CLOSED = ["netsh", "ipsec", "dynamic", "set", "config", "property=bootmode", "value=block"]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["status"], ""),
        (["netsh"], SHOW),
        (["netsh", "ipsec", "static", "delete", "filterlist", "nobody"], ""),
        (["no", "such", "command"], ""),
        (["boot-filters", "install", "--format", "json"], ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_it_answers_as_the_program_does(wire: Network, tmp_path: Path, words: list[str], given: str) -> None:
    homes = {name: tmp_path / name for name in ("alpha", "beta")}
    for name, home in homes.items():
        done = run_stockade(wire[name], home, *CLOSED)
        assert done.returncode == 0, done.stderr
    real = wire["alpha"].run(
        [*STOCKADE, "--home", str(homes["alpha"]), *words], check=False, input_text=given
    )
    ours = run_stockade(wire["beta"], homes["beta"], *words, input_text=given)
    assert ours.returncode == real.returncode
    for mine, its in ((ours.stdout, real.stdout), (ours.stderr, real.stderr)):
        assert lines_of(mine, homes["beta"]) == lines_of(its, homes["alpha"])
    for host in (wire["alpha"], wire["beta"]):
        tables = host.run(["nft", "list", "tables"]).stdout
        assert ("stockade" in tables) is (words[0] == "boot-filters")


def lines_of(text: str, home: Path) -> list[str]:
    """But for what differs from one home and moment to the next."""
    lines = text.replace(str(home), "HOME").splitlines()
    return [line.partition(":")[0] if line.startswith(("GUID", "Last Mod")) else line for line in lines]

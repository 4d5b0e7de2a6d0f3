"""`docs/how-to/other-peers.md` as it stands there: the policy for Stockade, the files for strongSwan and
libreswan, on the ESP of one kernel.

    stockade 10.0.0.1 ──── other 10.0.0.2: charon, then pluto

A program of its own, since the machine that the tests run on may have no ESP: `test_how_to.py` starts it in a
User-Mode-Linux kernel and reads its results:

    python how_to_scenarios.py --results FILE --folder DIR
"""

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from libreswan_node import Libreswan
from stockade_node import StockadeNode
from strongswan_node import StrongSwan

from stockade.lab.netns import Namespace, Network

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "other-peers.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OURS, THEIRS = "10.0.0.1", "10.0.0.2"


def blocks() -> dict[str, str]:
    """Policy and files of the page, by the language or by the path in their first line."""
    found = {}
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        first = text.partition("\n")[0]
        found[first.removeprefix("# ") if first.startswith("# /") else language] = text
    return found


class Snippet:
    """A swanctl.conf that stands on the page."""

    def text(self) -> str:
        return blocks()["/etc/swanctl/conf.d/stockade.conf"]

    def files(self) -> Mapping[str, bytes]:
        return {}


class LibreswanOfThePage(Libreswan):
    """Its two files as they are on the page; connections by their `auto=`, as the service loads them."""

    def _configure(self) -> None:
        super()._configure()
        # The unpacked package has no script that sets routes, and finds strongSwan's in its place.
        text = f"{blocks()['/etc/ipsec.conf']}\nconn %default\n    leftupdown=%disabled\n"
        (self._folder / "ipsec.conf").write_text(text, encoding="utf-8")
        (self._folder / "ipsec.secrets").write_text(blocks()["/etc/ipsec.secrets"], encoding="utf-8")

    def start(self) -> None:
        super().start()
        self._run("libexec/ipsec/addconn", "--config", str(self._folder / "ipsec.conf"), "--autoall")


@contextmanager
def other_end(name: str, namespace: Namespace, folder: Path) -> Iterator[object]:
    if name == "strongswan":
        with StrongSwan(namespace, folder, Snippet()) as swan:
            yield swan
    else:
        with LibreswanOfThePage(namespace, folder, {}) as swan:
            yield swan


def pings(namespace: Namespace, address: str) -> int:
    """How many of three were answered."""
    command = ["ping", "-q", "-c", "3", "-i", "0.3", "-W", "20", address]
    said = namespace.run(command, timeout=120, check=False).stdout
    found = re.search(r"(\d+) received", said)
    return int(found[1]) if found else 0


def until_all_are_answered(namespace: Namespace, address: str) -> None:
    """Whoever negotiates may lose what comes meanwhile, and strongSwan takes ESP only a moment after the last
    message of quick mode: on a busy machine that is a packet or two of the first."""
    deadline = time.monotonic() + 60
    while pings(namespace, address) < 3:
        assert time.monotonic() < deadline, f"{address} does not answer"


def scenario(name: str, folder: Path) -> None:
    """Both ends begin once, with nothing there before."""
    hosts = {"stockade": ip_interface(f"{OURS}/24"), "other": ip_interface(f"{THEIRS}/24")}
    for part in ("ours", "theirs"):
        (folder / part).mkdir(parents=True)
    with (
        Network(hosts) as network,
        other_end(name, network["other"], folder / "theirs"),
        StockadeNode(network["stockade"], folder / "ours", "kernel") as stockade,
    ):
        stockade.apply(blocks()["netsh"])
        try:
            until_all_are_answered(network["stockade"], THEIRS)  # we begin
            (first, *_) = stockade.quick_modes()
            assert first["suite"] == "ESP[AES128,SHA1]:100000k/3600s", first
            assert first["outbound_packets"] >= 3, first
            stockade.command("sa", "delete", THEIRS)
            deadline = time.monotonic() + 60
            while stockade.quick_modes() and time.monotonic() < deadline:
                time.sleep(0.2)
            until_all_are_answered(network["other"], OURS)  # the other begins
            assert stockade.quick_modes(), "it came in clear"
        except BaseException as error:
            error.add_note(stockade.output())
            raise


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("scenarios", nargs="+", help="strongswan, libreswan")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-how-to-"))
    results: dict[str, dict[str, object]] = {}
    for name in options.scenarios:
        began = time.monotonic()
        outcome, detail = "passed", ""
        try:
            scenario(name, folder / name)
        except Exception as error:
            outcome, detail = "failed", "".join(traceback.format_exception(error))
        print(f"{name}: {outcome} in {time.monotonic() - began:.1f} s\n{detail}", flush=True)
        results[name] = {"outcome": outcome, "detail": detail}
        options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

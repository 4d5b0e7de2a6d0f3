"""The scenarios of vm_scenarios.py: protected traffic between Stockade and strongSwan, in both roles.

strongSwan needs ESP in the kernel. Where this machine's kernel has it the scenarios run here, else in a
virtual machine with Debian's kernel over the same files (scripts/vm). Either way they run once, in one go,
and each has a test of its own here that reads what became of it.
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import pytest

from stockade.lab import needs
from stockade.lab.netns import Namespace

CHECKOUT = Path(__file__).resolve().parents[2]
VIRTUAL_MACHINE = CHECKOUT / "scripts" / "vm"
MODULES = ("esp4", "xfrm_user", "veth", "bridge", "tun", "nf_tables", "af_packet")
LIMIT_SECONDS = 600
SCENARIOS = (
    "we-initiate-3des-sha1",
    "strongswan-initiates-aes-cbc-with-pfs",
    "we-initiate-aes-gcm-with-pfs",
    "strongswan-initiates-tcp-only",
    "a-killed-agent-comes-back",
    "stopping-the-agent-tells-the-peer",
)
"""What our user-space data plane and the kernel's ESP must agree on. An emulated machine is slow: every suite
and role of the key exchange is tried in test_interop.py, and with the kernel's data plane in tests/kernel."""

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 120)


class Result(TypedDict):
    """What became of one scenario."""

    outcome: str
    seconds: float
    detail: str


def kernel_has_esp() -> bool:
    """Whether an SA can be made in this kernel: tried in a namespace of its own."""
    with Namespace(f"esp-{uuid.uuid4().hex[:6]}") as namespace:
        state = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode transport enc"
        probe = ["ip", *state.split(), "cbc(aes)", f"0x{'11' * 16}", "auth", "hmac(sha1)", f"0x{'22' * 20}"]
        return namespace.run(probe, check=False).returncode == 0


def run_here(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


def run_in_virtual_machine(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """As `run_here`, in a virtual machine; skips where none can be had."""
    missing = needs.qemu()
    if missing is not None:
        pytest.skip(f"this kernel has no ESP, and {missing}")
    built = subprocess.run(
        [VIRTUAL_MACHINE / "build-vm.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        reason = (built.stderr.strip().splitlines() or ["build-vm.sh failed"])[-1]
        pytest.skip(f"this kernel has no ESP, and there is no virtual machine: {reason}")
    load = f'modprobe -a {" ".join(MODULES)}; exec "$@"'
    runner = [str(VIRTUAL_MACHINE / "vm-run.sh"), "-v", "-t", str(LIMIT_SECONDS), "-s", str(folder)]
    return subprocess.run(
        [*runner, "--", "bash", "-c", load, "scenarios", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    """Run all scenarios once."""
    folder = tmp_path_factory.mktemp("strongswan-traffic")
    file = folder / "results.json"
    program = Path(__file__).parent / "vm_scenarios.py"
    command = [sys.executable, str(program), "--results", str(file), *SCENARIOS]
    process = run_here(command) if kernel_has_esp() else run_in_virtual_machine(command, folder)
    said = f"{process.stdout[-8000:]}\n{process.stderr[-4000:]}"
    (folder / "output.txt").write_text(said, encoding="utf-8")
    if not file.exists():
        pytest.fail(f"no scenario was run (exit status {process.returncode}):\n{said}")
    loaded: dict[str, Result] = json.loads(file.read_text(encoding="utf-8"))
    for name in SCENARIOS:
        loaded.setdefault(
            name, Result(outcome="not run", seconds=0.0, detail=f"exit status {process.returncode}:\n{said}")
        )
    return loaded


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, results: Mapping[str, Result]) -> None:
    result = results[scenario]
    if result["outcome"] != "passed":
        pytest.fail(f"{result['outcome']} after {result['seconds']} s:\n{result['detail']}", pytrace=False)

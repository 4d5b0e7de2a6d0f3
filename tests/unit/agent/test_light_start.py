"""What an agent does not load before its policy is in force: a host that was cut off waits for its start."""

import subprocess
import sys

import pytest

AGENT = (
    "stockade.console.main, stockade.agent.launch, stockade.agent.service, stockade.driver.userspace.driver"
)
DATA_PLANE = "stockade.driver.userspace.process"
WEB = {"uvicorn", "starlette", "sse_starlette", "anyio", "jinja2", "httptools", "websockets"}
TERMINAL = {"rich", "textual", "prompt_toolkit", "pygments"}
REST = {
    "gmpy2",
    "numpy",
    "gssapi",
    "bonsai",
    "dns",
    "pyroute2",
    "regipy",
    "structlog",
    "prometheus_client",
    "scapy",
}
OWN = {
    "stockade.analyze.explain",
    "stockade.agent.server",
    "stockade.netsh",
    "stockade.lab",
    "stockade.store.formats",
}
KEY_EXCHANGE = {"stockade.ike", "stockade.pki", "stockade.policy", "stockade.agent", "asyncio"}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [(AGENT, WEB | TERMINAL | REST | OWN), (DATA_PLANE, WEB | TERMINAL | REST | OWN | KEY_EXCHANGE)],
)
def test_a_start_loads_nothing_that_can_wait(modules: str, absent: set[str]) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "stockade" in loaded
    assert not absent & set(loaded)

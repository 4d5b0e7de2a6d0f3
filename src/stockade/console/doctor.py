"""`stockade doctor`: what this host can do, which data plane an agent would use, and why. Changes nothing
that stays.

Asked by trying (an SA that is taken away again, an opened device), since versions and module lists do not
tell.
"""

import errno
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.agent.web_settings import listen_on, read_web_settings
from stockade.console.output import give
from stockade.driver.kernel.offload import ESP_HW, FEATURE, esp_devices
from stockade.driver.probe import esp_refusal, kernel_capabilities
from stockade.driver.userspace import offloads
from stockade.model.reasons import StockadeError

_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_NET_BIND_SERVICE = 12, 13, 10
_NEEDED = {
    "CAP_NET_ADMIN": _CAP_NET_ADMIN,
    "CAP_NET_RAW": _CAP_NET_RAW,
    "CAP_NET_BIND_SERVICE": _CAP_NET_BIND_SERVICE,
}
ASK_SECONDS = 5.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Finding:
    """One question to the host. `detail` says what was found, or what is missing."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and what an agent with `--driver auto` does. `data_plane` None: it cannot run."""

    findings: tuple[Finding, ...]
    data_plane: str | None
    why: str

    def as_dict(self) -> dict[str, object]:
        return {
            "data_plane": self.data_plane,
            "why": self.why,
            "findings": [
                {"name": finding.name, "ok": finding.ok, "detail": finding.detail}
                for finding in self.findings
            ],
        }

    def lines(self) -> list[str]:
        rows = [
            f"{'yes' if finding.ok else 'no ':3}  {finding.name:22} {finding.detail}"
            for finding in self.findings
        ]
        return [*rows, "", f"data plane: {self.data_plane or 'none'}, because {self.why}"]


def examine(paths: Paths | None = None) -> Report:
    """Ask the host everything; with `paths` also whether the web console can be served."""
    privileges = _privileges()
    esp4, esp6 = _esp(4), _esp(6)
    tun, nftables, raw = _tun(), _nftables(), _raw_sockets()
    findings: list[Finding] = [
        privileges,
        esp4,
        esp6,
        _algorithms(esp4.ok),
        tun,
        nftables,
        raw,
        *_offloads(),
    ]
    if paths is not None:
        findings.append(_web(paths))
    return Report(tuple(findings), *_choice(privileges, esp4, (tun, nftables, raw)))


def run_doctor(form: str, paths: Paths) -> int:
    """Print the report; 0 if an agent can run here, else 1."""
    report = examine(paths)
    give(report.as_dict(), form, "\n".join(report.lines()))
    return 0 if report.data_plane is not None else 1


def _choice(privileges: Finding, esp: Finding, userspace: tuple[Finding, ...]) -> tuple[str | None, str]:
    """(data plane, why): the same choice as the agent's."""
    if not privileges.ok:
        return None, f"an agent needs privileges: {privileges.detail}"
    if esp.ok:
        return "kernel", "the kernel has ESP"
    missing = [finding.detail for finding in userspace if not finding.ok]
    if missing:
        return (
            None,
            f"the kernel has no ESP ({esp.detail}), and for user space is missing: {'; '.join(missing)}",
        )
    return "userspace", f"the kernel has no ESP ({esp.detail}), and all that user space needs is there"


def _privileges() -> Finding:
    missing = [name for name, number in _NEEDED.items() if not _effective() >> number & 1]
    detail = f"missing {', '.join(missing)}" if missing else ", ".join(_NEEDED)
    return Finding("privileges", not missing, detail)


def _effective() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return -1 if os.geteuid() == 0 else 0


def _esp(version: int) -> Finding:
    refusal = esp_refusal(version)
    return Finding(f"ESP in kernel, IPv{version}", refusal is None, refusal or "an SA was added and removed")


def _algorithms(has_esp: bool) -> Finding:
    name = "algorithms in kernel"
    if not has_esp:
        return Finding(name, False, "not asked: there is no ESP")
    try:
        found = kernel_capabilities()
    except StockadeError as error:
        return Finding(name, False, str(error.reason))
    words = sorted(map(str, found.encryptions)) + sorted(map(str, found.integrities))
    words += ["AH"] if found.authentication_header else []
    return Finding(name, bool(found.encryptions and found.integrities), ", ".join(words))


def _tun() -> Finding:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding("TUN device", False, f"/dev/net/tun cannot be opened: {error.strerror}")
    return Finding("TUN device", True, "/dev/net/tun")


def _nftables() -> Finding:
    program = shutil.which("nft") or shutil.which("nft", path=_SYSTEM_PATH)
    if program is None:
        return Finding("nftables", False, "the program nft is not installed (Debian: nftables)")
    command = [program, "--check", "add", "table", "inet", "stockade_doctor"]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("nftables", False, f"nft does not run: {error}")
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"]
        return Finding("nftables", False, f"nft cannot add a table: {said[0]}")
    return Finding("nftables", True, program)


def _offloads() -> tuple[Finding, ...]:
    """What makes the data planes fast; none of it is needed."""
    found = [Finding(f"offload {each.name}", each.there, each.detail) for each in offloads.examine()]
    return (*found, _cards())


def _cards() -> Finding:
    """The kernel data plane's own: ESP in network cards."""
    devices = esp_devices()
    none = f"no network device has {FEATURE} switched on (ethtool -k)"
    return Finding(f"offload {ESP_HW}", bool(devices), ", ".join(devices) or none)


def _web(paths: Paths) -> Finding:
    """The web console: of the agent that runs, or whether one could serve it. Nothing depends on it."""
    name = "web console"
    try:
        web = AgentClient(paths.socket, ASK_SECONDS).get("/v1/status")["web"]
    except StockadeError:
        pass
    else:
        if web is None:
            return Finding(name, False, "agent.toml says [web] serve = false")
        if web["state"] == "closed":
            return Finding(name, False, web["trouble"]["text"] if web["trouble"] else "not served")
        trouble = f"; it ended last with: {web['trouble']['text']}" if web["trouble"] else ""
        return Finding(name, not trouble, f"the agent serves {web['url']} ({web['state']}){trouble}")
    missing = [package for package in ("jinja2", "starlette", "uvicorn") if find_spec(package) is None]
    if missing:
        return Finding(name, False, f"the Python packages {', '.join(missing)} are missing")
    try:
        settings = read_web_settings(paths.web_settings)
        listen_on(settings).close()
    except StockadeError as error:
        return Finding(name, False, str(error))
    return Finding(name, True, f"an agent can serve {settings.url}")


def _raw_sockets() -> Finding:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 50).close()
    except OSError as error:
        missing = "CAP_NET_RAW" if error.errno == errno.EPERM else error.strerror
        return Finding("raw ESP sockets", False, f"cannot be opened: {missing}")
    return Finding("raw ESP sockets", True, "can be opened")

"""strongSwan with its user-space ESP (kernel-libipsec) between the two hosts of `bench esp`: the peer to
compare with.

IKEv2 with a pre-shared key, one tunnel between the addresses behind the hosts, ESP in UDP as the plugin has
it always. charon-systemd needs neither systemd nor a pid file; each host has a folder for everything.
"""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stockade.bench.esp_node import HOSTS, INNER, STRONGSWAN_PROPOSALS, other
from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace

PLUGIN = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
SECONDS = 15.0
_FOLDERS = "x509 x509ca x509aa x509ac x509crl x509ocsp pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d"
_MARK = "0x42"
_LAST = "socket-default vici"


def missing() -> str | None:
    """Why it cannot be measured here."""
    if find_program("charon-systemd") is None or find_program("swanctl") is None:
        return "strongSwan is not installed (Debian: charon-systemd, strongswan-swanctl)"
    if not PLUGIN.exists():
        return "its plugin kernel-libipsec is not installed (Debian: libcharon-extra-plugins)"
    return None


@contextmanager
def tunnel(alpha: Namespace, beta: Namespace, suite: str) -> Iterator[str | None]:
    """The tunnel, or why there is none."""
    with tempfile.TemporaryDirectory(prefix="stockade-esp.") as folder:
        charons: list[subprocess.Popen[str]] = []
        try:
            for name, namespace in (("alpha", alpha), ("beta", beta)):
                charons.append(_start(name, namespace, Path(folder) / name, suite))
            yield _bring_up(alpha, beta, Path(folder))
        finally:
            for charon in charons:
                charon.terminate()
            for charon in charons:
                try:
                    charon.wait(5)
                except subprocess.TimeoutExpired:
                    charon.kill()
                    charon.wait()


def _start(name: str, namespace: Namespace, folder: Path, suite: str) -> "subprocess.Popen[str]":
    for each in _FOLDERS.split():
        (folder / "swanctl" / each).mkdir(parents=True)
    (folder / "strongswan.conf").write_text(
        f"""charon-systemd {{
  load = random nonce openssl hmac kdf gcm aes des sha1 sha2 kernel-libipsec kernel-netlink {_LAST}
  filelog {{ log {{ path = {folder}/charon.log
      flush_line = yes }} }}
  journal {{ default = -1 }}
  plugins {{
    vici {{ socket = unix://{folder}/vici }}
    kernel-libipsec {{ load = yes }}
    kernel-netlink {{ fwmark = !{_MARK} }}
    socket-default {{ fwmark = {_MARK} }}
  }}
  install_routes = yes
}}
swanctl {{ load = random openssl }}
"""
    )
    peer = other(name)
    (folder / "swanctl" / "swanctl.conf").write_text(
        f"""connections {{ peer {{
    version = 2
    local_addrs = {HOSTS[name]}
    remote_addrs = {HOSTS[peer]}
    proposals = aes128-sha256-ecp256
    local {{ auth = psk
      id = {HOSTS[name]} }}
    remote {{ auth = psk
      id = {HOSTS[peer]} }}
    children {{ traffic {{
        local_ts = {INNER[name]}/32
        remote_ts = {INNER[peer]}/32
        esp_proposals = {STRONGSWAN_PROPOSALS[suite]} }} }}
}} }}
secrets {{ ike-peer {{ secret = "for a benchmark" }} }}
"""
    )
    environment = {"STRONGSWAN_CONF": str(folder / "strongswan.conf")}
    charon = find_program("charon-systemd")
    assert charon is not None
    return namespace.popen([charon], environment=environment)


def _bring_up(alpha: Namespace, beta: Namespace, folder: Path) -> str | None:
    deadline = time.monotonic() + SECONDS
    hosts = {"alpha": alpha, "beta": beta}
    for name, namespace in hosts.items():
        while True:
            loaded = _swanctl(namespace, folder / name, "--load-all")
            if loaded.returncode == 0:
                break
            if time.monotonic() > deadline:
                return f"charon did not start: {_last_line(folder / name)}"
            time.sleep(0.1)
    done = _swanctl(alpha, folder / "alpha", "--initiate", "--child", "traffic", "--timeout", "10")
    if done.returncode == 0:
        return None
    return (done.stdout.strip().splitlines() or [_last_line(folder / "alpha")])[-1]


def _swanctl(namespace: Namespace, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {"STRONGSWAN_CONF": str(folder / "strongswan.conf"), "SWANCTL_DIR": str(folder / "swanctl")}
    words = (*words, "--uri", f"unix://{folder}/vici")
    return namespace.run(["swanctl", *words], check=False, environment=environment)


def _last_line(folder: Path) -> str:
    log = folder / "charon.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1] if lines else "no log"

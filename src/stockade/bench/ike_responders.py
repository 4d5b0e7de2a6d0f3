"""The responders of the handshake benchmark: our agent, and strongSwan's charon beside it.

Each is a process in a namespace, with one rule: whoever comes from `PEERS` negotiates. `Responder.usage`
reads what it took: processor time of all its threads and resident memory, from /proc.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from stockade.bench.ike_initiator import CheapKeys
from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace
from stockade.model.reasons import ReasonCode, error_for

INITIATOR, RESPONDER = "10.9.9.1", "10.9.9.2"
PEERS, PEERS_FIRST = "10.64.0.0/15", "10.64.0.1"
PRESHARED_KEY = "a key for nothing but this benchmark"
START_SECONDS = 30.0
_WORDS = {
    "modp-2048": ("3", "modp2048"),
    "ecp-256": ("ECP256", "ecp256"),
    "curve-25519": ("X25519", "x25519"),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of processor time since the start, and bytes of resident memory."""

    cpu: float
    resident: int


@dataclass(frozen=True, slots=True)
class Pki:
    """PEM texts of a root and a certificate with its key for each end, and the root's name as rules say
    it."""

    root: bytes
    root_name: str
    initiator: tuple[bytes, bytes]
    responder: tuple[bytes, bytes]
    cheap: CheapKeys


class Responder(Protocol):
    name: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def usage(self) -> Usage: ...

    def stay_on(self, core: int) -> None:
        """Run on one processor from now on."""


class _Process:
    """What both have in common."""

    name = ""

    def __init__(self, namespace: Namespace, folder: Path, group: str, pki: Pki | None) -> None:
        self._namespace = namespace
        self._folder = folder
        self._group = group
        self._pki = pki
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # nothing to say good-bye for: its peers are gone with the namespace
            self._process.wait()
            self._process = None

    def usage(self) -> Usage:
        assert self._process is not None
        folder = Path("/proc") / str(self._process.pid)
        nanoseconds = 0
        for task in (folder / "task").iterdir():
            with suppress(OSError):
                nanoseconds += int((task / "schedstat").read_text().split()[0])
        resident = int((folder / "statm").read_text().split()[1]) * 4096
        return Usage(nanoseconds / 1e9, resident)

    def stay_on(self, core: int) -> None:
        assert self._process is not None
        for task in (Path("/proc") / str(self._process.pid) / "task").iterdir():
            with suppress(OSError):  # a thread that has ended; those that begin later are its children
                os.sched_setaffinity(int(task.name), {core})

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not path.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise error_for(ReasonCode.DRIVER_FAILED, f"{self.name} did not start; see {self._folder}")
            time.sleep(0.05)


class StockadeResponder(_Process):
    """`stockade agent run --driver memory`: the agent as it is, with a data plane that goes nowhere."""

    name = "Stockade"

    def __init__(
        self, namespace: Namespace, folder: Path, group: str, pki: Pki | None, *, peers: str = PEERS
    ) -> None:
        super().__init__(namespace, folder, group, pki)
        self._peers = peers

    def start(self) -> None:
        home = self._folder / "home"
        method = f'psk="{PRESHARED_KEY}"' if self._pki is None else f'rootca="{self._pki.root_name}"'
        network, length = self._peers.split("/")
        mask = ".".join(str((0xFFFF_FFFF << (32 - int(length)) >> shift) & 0xFF) for shift in (24, 16, 8, 0))
        script = self._folder / "policy.netsh"
        suite = f"AES128-SHA256-{_WORDS[self._group][0]}"
        script.write_text(
            "ipsec static\n"
            f'add policy name=bench activatedefaultrule=no mmsecmethods="{suite}"\n'
            "add filterlist name=peers\n"
            f"add filter filterlist=peers srcaddr=me dstaddr={network} dstmask={mask}\n"
            'add filteraction name=secure action=negotiate qmsecmethods="ESP[AES128,SHA256]"\n'
            f"add rule name=peers policy=bench filterlist=peers filteraction=secure kerberos=no {method}\n"
            "set policy name=bench assign=yes\n"
        )
        commands = [["netsh", "-f", str(script)]]
        if self._pki is not None:
            for number, texts in enumerate((self._pki.responder, (self._pki.root,))):
                path = self._folder / f"{number}.pem"
                path.touch(mode=0o600)
                path.write_bytes(b"".join(texts))
                commands.append(["cert", "import", "--trust-roots", str(path)])
        for words in commands:
            done = subprocess.run(
                [sys.executable, "-m", "stockade.console.main", "--home", str(home), *words],
                capture_output=True,
                text=True,
                timeout=START_SECONDS,
                check=False,
            )
            if done.returncode:
                raise error_for(ReasonCode.INTERNAL, f"{words[0]}: {done.stdout}{done.stderr}")
        output = (self._folder / "agent.out").open("w")
        self._process = self._namespace.popen(
            [
                *(sys.executable, "-m", "stockade.console.main", "--home", str(home)),
                *("agent", "run", "--driver", "memory"),
            ],
            stdout=output.fileno(),
        )
        output.close()
        deadline = time.monotonic() + START_SECONDS
        while "in force" not in (self._folder / "agent.out").read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self._folder / "agent.out").read_text()
                raise error_for(ReasonCode.DRIVER_FAILED, f"the agent did not start: {text}")
            time.sleep(0.05)


_PLUGINS = (
    "random nonce x509 revocation constraints pubkey pkcs1 pkcs8 pem openssl hmac kdf aes sha1 sha2 gmp"
    " curve25519 gcm"
)
_FOLDERS = (
    "x509",
    "x509ca",
    "x509aa",
    "x509ac",
    "x509crl",
    "x509ocsp",
    "private",
    "rsa",
    "ecdsa",
    "pkcs8",
    "pkcs12",
)


class CharonResponder(_Process):
    """strongSwan's charon. With `libipsec` its ESP in user space, so that it can make quick modes where the
    kernel has no ESP: tunnel mode in UDP then."""

    name = "charon"

    def __init__(
        self, namespace: Namespace, folder: Path, group: str, pki: Pki | None, *, libipsec: bool
    ) -> None:
        super().__init__(namespace, folder, group, pki)
        self._libipsec = libipsec

    def start(self) -> None:
        configuration = self._folder / "swanctl"
        for name in _FOLDERS:
            (configuration / name).mkdir(parents=True, exist_ok=True)
        socket = self._folder / "vici"
        local, remote = "auth = psk", "auth = psk"
        if self._pki is not None:
            (configuration / "x509" / "host.pem").write_bytes(self._pki.responder[0])
            (configuration / "private" / "host.pem").write_bytes(self._pki.responder[1])
            (configuration / "x509ca" / "root.pem").write_bytes(self._pki.root)
            local, remote = "auth = pubkey\n certs = host.pem", "auth = pubkey\n id = %any"
        (configuration / "swanctl.conf").write_text(
            f"""\
connections {{
  peer {{
    version = 1
    local_addrs = {RESPONDER}
    remote_addrs = %any
    proposals = aes128-sha256-{_WORDS[self._group][1]}
    unique = never
    encap = {"yes" if self._libipsec else "no"}
    local {{
 {local}
    }}
    remote {{
 {remote}
    }}
    children {{
      traffic {{
        mode = {"tunnel" if self._libipsec else "transport"}
        local_ts = {RESPONDER}/32
        remote_ts = {PEERS}
        esp_proposals = aes128-sha256
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    secret = "{PRESHARED_KEY}"
  }}
}}
"""
        )
        libipsec = "kernel-libipsec" if self._libipsec else ""
        (self._folder / "strongswan.conf").write_text(
            f"""\
charon-systemd {{
  load = {_PLUGINS} {libipsec} kernel-netlink socket-default vici
  install_routes = no
  threads = 16
  half_open_timeout = 300
  cookie_threshold = 0
  block_threshold = 0
  init_limit_half_open = 0
  filelog {{
    bench {{
      path = {self._folder}/charon.log
      default = {-1 if not self._libipsec else 0}
    }}
  }}
  journal {{
    default = -1
  }}
  plugins {{
    vici {{
      socket = unix://{socket}
    }}
    kernel-libipsec {{
      load = yes
    }}
    kernel-netlink {{
      fwmark = !0x42
    }}
    socket-default {{
      fwmark = 0x42
    }}
  }}
}}
swanctl {{
  load = pem pkcs1 pkcs8 x509 revocation constraints pubkey openssl random
}}
"""
        )
        environment = {
            "STRONGSWAN_CONF": str(self._folder / "strongswan.conf"),
            "SWANCTL_DIR": str(configuration),
        }
        charon, swanctl = find_program("charon-systemd"), find_program("swanctl")
        assert charon is not None
        assert swanctl is not None
        self._process = self._namespace.popen([charon], environment=environment)
        self.wait_for(socket)
        self._namespace.run(
            [swanctl, "--load-all", "--uri", f"unix://{socket}"], timeout=60, environment=environment
        )

"""strongSwan as the other end: one charon in one network namespace, configured, driven and read by a test.

`charon-systemd` needs neither systemd nor a pid file, so any number of them can run: each has its own folder
with its configuration, its vici socket and its log. `swanctl` speaks to that socket. The configuration is
for one IKEv1 connection named `peer` with one child named `traffic`, host to host in transport mode.
"""

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace

CHILD_PROPOSAL_DEFAULT = "aes128-sha1"
START_SECONDS = 60.0  # an emulated machine takes its time

_PLUGINS = (
    "random nonce x509 revocation constraints pubkey pkcs1 pkcs8 pem openssl hmac kdf aes sha1 sha2 gmp gcm"
    " kernel-netlink socket-default vici"
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


@dataclass(frozen=True, slots=True)
class Connection:
    """What strongSwan is told. Proposals are in strongSwan's words (`aes128-sha256-modp2048`); `traffic` is
    appended to both traffic selectors (`[tcp]`, `[tcp/5001]`, or nothing for all)."""

    local: str
    remote: str
    preshared_key: str
    ike_proposal: str
    esp_proposal: str = CHILD_PROPOSAL_DEFAULT
    local_traffic: str = ""
    remote_traffic: str = ""
    certificate: bytes = b""
    private_key: bytes = b""
    authorities: tuple[bytes, ...] = ()
    identity: str = ""
    encapsulation: bool = False
    """Behave as behind a NAT: false NAT-D hashes, so that both ends go to port 4500."""
    """With a certificate (all PEM): authentication by it, `identity` is what strongSwan calls itself. The
    peer may be whoever has a certificate under one of the authorities."""

    @property
    def authentication(self) -> tuple[str, str]:
        """The sections `local` and `remote`."""
        if self.certificate:
            return (
                f'auth = pubkey\n      certs = host.pem\n      id = "{self.identity}"',
                "auth = pubkey\n      id = %any",
            )
        return f"auth = psk\n      id = {self.local}", f"auth = psk\n      id = {self.remote}"

    def text(self) -> str:
        """swanctl.conf."""
        return f"""\
connections {{
  peer {{
    version = 1
    local_addrs = {self.local}
    remote_addrs = {self.remote}
    proposals = {self.ike_proposal}
    encap = {"yes" if self.encapsulation else "no"}
    local {{
      {self.authentication[0]}
    }}
    remote {{
      {self.authentication[1]}
    }}
    children {{
      traffic {{
        mode = transport
        local_ts = dynamic{self.local_traffic}
        remote_ts = dynamic{self.remote_traffic}
        esp_proposals = {self.esp_proposal}
      }}
    }}
  }}
}}
secrets {{
  ike-peer {{
    secret = "{self.preshared_key}"
    id-1 = {self.local}
    id-2 = {self.remote}
  }}
}}
"""

    def files(self) -> Mapping[str, bytes]:
        """What the folders of swanctl hold."""
        places = {"x509/host.pem": self.certificate, "private/host.pem": self.private_key}
        for number, authority in enumerate(self.authorities):
            places[f"x509ca/{number}.pem"] = authority
        return places


class Configuration(Protocol):
    """What strongSwan is told: `Connection`, or several of them."""

    def text(self) -> str:
        """swanctl.conf."""

    def files(self) -> Mapping[str, bytes]:
        """Path in swanctl's folder -> content."""


class StrongSwan:
    """A charon in `namespace`, a context manager: started and loaded on entry, stopped on exit. An error
    that passes through gets the log as a note."""

    def __init__(self, namespace: Namespace, folder: Path, connection: Configuration) -> None:
        self.namespace = namespace
        self.connection = connection
        self._folder = folder
        self._socket = folder / "vici"
        self._log = folder / "charon.log"
        self._environment = {
            "STRONGSWAN_CONF": str(folder / "strongswan.conf"),
            "SWANCTL_DIR": str(folder / "swanctl"),
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._configure()
        self.start()
        return self

    def start(self) -> None:
        """Start charon and load its configuration."""
        charon = find_program("charon-systemd")
        assert charon is not None, "the tier's needs say that strongSwan is installed"
        self._process = self.namespace.popen([charon], environment=self._environment)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self._socket.exists():
                assert self._process.poll() is None, f"charon ended at once:\n{self.log()}"
                assert time.monotonic() < deadline, f"charon did not start:\n{self.log()}"
                time.sleep(0.02)
            loaded = self.swanctl("--load-all")
            assert loaded.returncode == 0, f"swanctl --load-all failed: {loaded.stdout}{loaded.stderr}"
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None:
            value.add_note(f"strongSwan's log:\n{self.log()}")
        self.stop()

    def stop(self) -> None:
        """Let it say good-bye to its peers and end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def swanctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run swanctl against this charon and wait for it."""
        return self.namespace.run(
            self._command(arguments), timeout=timeout, check=False, environment=self._environment
        )

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start swanctl against this charon and do not wait, so that the test can play the other end
        meanwhile."""
        return self.namespace.popen(
            self._command(arguments), stdout=subprocess.PIPE, environment=self._environment
        )

    def initiate(self, seconds: int = 20, child: str = "traffic") -> "subprocess.Popen[str]":
        """Begin main mode and quick mode as the initiator; the process ends when charon has a verdict."""
        return self.begin("--initiate", "--child", child, "--timeout", str(seconds))

    def terminate(self, connection: str = "peer") -> "subprocess.Popen[str]":
        """Delete the connection's SAs."""
        return self.begin("--terminate", "--ike", connection, "--timeout", "10")

    def kill(self) -> None:
        """SIGKILL, as a crash is: its SAs and policies stay in the kernel, nobody is told."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        self._socket.unlink(missing_ok=True)

    def established(self) -> "list[RawValue]":
        """The IKE SAs that are up, as `parse_raw` gives them."""
        return [entry for entry in self.ike_sas() if entry["state"] == "ESTABLISHED"]

    def ike_sas(self) -> "list[RawValue]":
        """All IKE SAs of the connection, as `parse_raw` gives them."""
        return parse_list_sas(self.swanctl("--list-sas", "--raw").stdout)

    def children(self) -> "list[RawValue]":
        """The installed child SAs of all IKE SAs."""
        found: list[RawValue] = []
        for entry in self.ike_sas():
            children = entry.get("child-sas")
            if isinstance(children, dict):
                found += [child for child in children.values() if isinstance(child, dict)]
        return [child for child in found if child.get("state") == "INSTALLED"]

    def log(self) -> str:
        """What charon logged so far."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"

    def _command(self, arguments: Sequence[str]) -> list[str]:
        swanctl = find_program("swanctl")
        assert swanctl is not None, "the tier's needs say that strongSwan is installed"
        return [swanctl, *arguments, "--uri", f"unix://{self._socket}"]

    def _configure(self) -> None:
        for name in _FOLDERS:
            (self._folder / "swanctl" / name).mkdir(parents=True, exist_ok=True)
        secret_file = self._folder / "swanctl" / "swanctl.conf"
        secret_file.touch(mode=0o600)
        secret_file.write_text(self.connection.text(), encoding="utf-8")
        for place, content in self.connection.files().items():
            if content:
                (self._folder / "swanctl" / place).write_bytes(content)
        (self._folder / "strongswan.conf").write_text(
            f"""\
charon-systemd {{
  load = {_PLUGINS}
  install_routes = no
  # quick verdicts when the other end stays silent
  retransmit_timeout = 1.0
  retransmit_base = 1.5
  retransmit_tries = 4
  filelog {{
    test {{
      path = {self._log}
      time_format = %H:%M:%S
      default = 1
      ike = 2
      flush_line = yes
    }}
  }}
  journal {{
    default = -1
  }}
  plugins {{
    vici {{
      socket = unix://{self._socket}
    }}
  }}
}}
swanctl {{
  load = pem pkcs1 pkcs8 x509 revocation constraints pubkey openssl random
}}
""",
            encoding="utf-8",
        )
        self._log.touch()


# ---- swanctl --raw -------------------------------------------------------------------------------------
RawValue = dict[str, "str | RawValue | list[str]"]

_TOKEN = re.compile(r"\s*(?:([^\s={}]+)\s*\{|([\w.:-]+)=\[([^\]]*)\]|([\w.:-]+)=([^\s{}]*)|(\}))")


def parse_raw(text: str) -> RawValue:
    """`swanctl --raw`'s nested `name {key=value list=[a b] name {…}}` as dictionaries; text that is
    something else between entries is skipped. A section that comes again under the same name gets `#2`, `#3`
    …"""
    root: RawValue = {}
    stack = [root]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            position += 1
            continue
        position = match.end()
        section, list_name, items, name, value, closing = match.groups()
        if section is not None:
            unique, number = section, 2
            while unique in stack[-1]:
                unique, number = f"{section}#{number}", number + 1
            inner: RawValue = {}
            stack[-1][unique] = inner
            stack.append(inner)
        elif list_name is not None:
            stack[-1][list_name] = items.split()
        elif name is not None:
            stack[-1][name] = value
        elif closing is not None and len(stack) > 1:
            stack.pop()
    return root


def parse_list_sas(text: str) -> list[RawValue]:
    """The IKE SAs in the output of `swanctl --list-sas --raw`: one per line, `list-sa event {name {…}}`."""
    found: list[RawValue] = []
    for line in text.splitlines():
        before, separator, after = line.partition("list-sa event ")
        if separator and not before:
            for event in parse_raw("event " + after).values():
                if isinstance(event, dict):
                    found += [entry for entry in event.values() if isinstance(entry, dict)]
    return found

"""libreswan as the other end: one pluto in one network namespace, configured, driven and read by a test.

Debian's package conflicts with strongSwan's, so it is not installed but unpacked (scripts/libreswan). pluto
takes all its paths on the command line; connections are given to it by `addconn`, orders by `whack`.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stockade.lab.netns import Namespace
from stockade.model.reasons import HostError

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
PASSWORD = "test"  # of the PKCS#12 file that the certificate comes in


def build() -> Path | str:
    """Where libreswan is, fetched where need be; or why it cannot be had."""
    built = subprocess.run(
        [CHECKOUT / "scripts" / "libreswan" / "build-libreswan.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        return (built.stderr.strip().splitlines() or ["build-libreswan.sh failed"])[-1]
    return Path(built.stdout.strip())


class Libreswan:
    """A pluto in `namespace`, a context manager. `connections` are the `conn` sections of ipsec.conf by their
    names, `secrets` is ipsec.secrets, `containers` are PKCS#12 files by the nickname of their certificate,
    `authorities` root certificates in PEM. An error that passes through gets the log as a note."""

    def __init__(
        self,
        namespace: Namespace,
        folder: Path,
        connections: Mapping[str, str],
        secrets: str = "",
        containers: Mapping[str, bytes] | None = None,
        authorities: tuple[bytes, ...] = (),
    ) -> None:
        self.namespace = namespace
        self._connections = connections
        self._secrets = secrets
        self._containers = containers or {}
        self._authorities = authorities
        self._folder = folder
        self._control = folder / "run" / "pluto.ctl"
        self._log = folder / "pluto.log"
        root = build()
        assert isinstance(root, Path), root
        self._programs = root / "root" / "usr"
        self._environment = {"LD_LIBRARY_PATH": str(root / "lib")}
        self._process: subprocess.Popen[str] | None = None
        self.refused: dict[str, str] = {}
        """Connections that pluto did not take, and what it said."""

    def __enter__(self) -> Self:
        self._configure()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None:
            value.add_note(f"libreswan's log:\n{self.log()}")
        self.stop()

    def start(self) -> None:
        """Start pluto and give it the connections."""
        options = ["--nofork", "--config", self._folder / "ipsec.conf", "--rundir", self._folder / "run"]
        options += ["--secretsfile", self._folder / "ipsec.secrets", "--nssdir", self._folder / "nss"]
        options += [
            "--ipsecdir",
            self._folder / "ipsec.d",
            "--logfile",
            self._log,
            "--use-xfrm",
            "--no-dnssec",
        ]
        options += ["--nhelpers", "0"]
        # pluto insists on finding addconn where the package would put it.
        mount = 'mount --make-rprivate / && mount --bind "$1" /usr/libexec && shift && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(self._programs / "libexec")]
        self._process = self.namespace.popen(
            [*command, "/usr/libexec/ipsec/pluto", *map(str, options)], environment=self._environment
        )
        deadline = time.monotonic() + START_SECONDS
        while self._run("libexec/ipsec/whack", "--status", check=False).returncode != 0:
            assert self._process.poll() is None, f"pluto ended at once:\n{self.log()}"
            assert time.monotonic() < deadline, f"pluto does not answer:\n{self.log()}"
            time.sleep(0.05)
        self._run("libexec/ipsec/whack", "--listen")
        # all in one: each reads the whole configuration, and where a machine is emulated that takes long
        self._run(
            "libexec/ipsec/addconn",
            "--config",
            str(self._folder / "ipsec.conf"),
            *self._connections,
            check=False,
            seconds=START_SECONDS,
        )
        known, log = self.status(), self.log()
        for name in self._connections:
            if f'"{name}":' not in known:
                said = [line for line in log.splitlines() if f'"{name}"' in line]
                self.refused[name] = "".join(said[-1:]) or "pluto did not take it"

    def stop(self) -> None:
        """Let it say good-bye to its peers and end."""
        if self._process is None:
            return
        self._run("libexec/ipsec/whack", "--shutdown", check=False)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash is: its SAs and policies stay in the kernel, nobody is told."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        for left in (self._folder / "run").iterdir():
            left.unlink()

    def initiate(self, connection: str, seconds: float) -> str:
        """Begin main mode and quick mode and wait for the end; what pluto said."""
        done = self._run(
            "libexec/ipsec/whack", "--initiate", "--name", connection, check=False, seconds=seconds
        )
        return done.stdout + done.stderr

    def terminate(self, connection: str) -> None:
        """Delete the connection's SAs."""
        self._run("libexec/ipsec/whack", "--terminate", "--name", connection, check=False)

    def status(self) -> str:
        return self._run("libexec/ipsec/whack", "--status", check=False).stdout

    def log(self) -> str:
        """What pluto logged so far."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "(no log)"

    def _run(
        self, program: str, *arguments: str, check: bool = True, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        control = ["--ctlsocket", str(self._control)] if "libexec" in program else []
        command = [str(self._programs / program), *control, *arguments]
        try:
            return self.namespace.run(command, check=check, timeout=seconds, environment=self._environment)
        except HostError as error:
            if check:
                raise
            return subprocess.CompletedProcess(command, 124, "", str(error))

    def _configure(self) -> None:
        for name in ("run", "nss", "ipsec.d"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        head = "config setup\n    ikev1-policy=accept\n"
        sections = [f"conn {name}\n{text}" for name, text in self._connections.items()]
        (self._folder / "ipsec.conf").write_text("\n".join([head, *sections]), encoding="utf-8")
        secret_file = self._folder / "ipsec.secrets"
        secret_file.touch(mode=0o600)
        secret_file.write_text(self._secrets, encoding="utf-8")
        store = f"sql:{self._folder / 'nss'}"
        self._run("bin/certutil", "-N", "-d", store, "--empty-password")
        for number, authority in enumerate(self._authorities):
            path = self._folder / f"authority{number}.pem"
            path.write_bytes(authority)
            self._run(
                "bin/certutil",
                "-A",
                "-d",
                store,
                "-n",
                f"authority{number}",
                "-t",
                "CT,,",
                "-a",
                "-i",
                str(path),
            )
        for name, container in self._containers.items():
            path = self._folder / f"{name}.p12"
            path.write_bytes(container)
            os.chmod(path, 0o600)
            self._run("bin/pk12util", "-i", str(path), "-d", store, "-W", PASSWORD, "-K", "")

"""A real Kerberos domain controller (MIT's, Debian: krb5-kdc and krb5-admin-server) in a network namespace.

Its realm, its principals and the hosts' keytabs are made anew in a folder; nothing of the machine's own
Kerberos is read or written. `krb5_conf` is what clients need as KRB5_CONFIG."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from stockade.lab.needs import SYSTEM_PATH, find_program
from stockade.lab.netns import Namespace

PROGRAMS = ("krb5kdc", "kadmin.local", "kdb5_util")
REALM = "STOCKADE.TEST"


def missing() -> str | None:
    """What the machine lacks for it, in words."""
    for program in PROGRAMS:
        if find_program(program) is None:
            return f"the program {program} is not installed (Debian: krb5-kdc, krb5-admin-server)"
    try:
        import gssapi  # noqa: F401
    except ImportError:
        return "the Python package gssapi is not installed (pip install 'stockade[kerberos]')"
    return None


class KeyDistributionCenter:
    """`address`: where clients reach it. `others`: address of the controllers of other realms, by realm."""

    def __init__(
        self,
        namespace: Namespace,
        folder: Path,
        address: str,
        realm: str = REALM,
        others: Mapping[str, str] | None = None,
    ) -> None:
        self.namespace, self.folder, self.address, self.realm = namespace, folder, address, realm
        self.krb5_conf = folder / "krb5.conf"
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        realms = {realm: address, **(others or {})}
        listed = "\n".join(f"  {name} = {{\n    kdc = {place}\n  }}" for name, place in realms.items())
        self.krb5_conf.write_text(
            f"[libdefaults]\n  default_realm = {realm}\n  dns_lookup_kdc = false\n"
            f"  dns_lookup_realm = false\n"
            f"  rdns = false\n  dns_canonicalize_hostname = false\n[realms]\n{listed}\n"
        )
        (folder / "kdc.conf").write_text(
            f"[realms]\n  {realm} = {{\n    database_name = {folder}/principal\n"
            f"    key_stash_file = {folder}/stash\n"
            f"    acl_file = {folder}/kadm5.acl\n    kdc_ports = 88\n    kdc_tcp_ports = 88\n  }}\n"
            f"[logging]\n  kdc = FILE:{folder}/kdc.log\n"
        )
        self._tool("kdb5_util", "create", "-s", "-r", realm, "-P", "master of the test realm")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
        }

    def _tool(self, program: str, *words: str) -> str:
        path = find_program(program)
        assert path is not None
        result = subprocess.run(
            [path, *words], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, (program, words, result.stdout, result.stderr)
        return result.stdout

    def admin(self, command: str) -> str:
        return self._tool("kadmin.local", "-r", self.realm, "-q", command)

    def add_host(self, principal: str, keytab: Path, *options: str) -> Path:
        """A principal with a random key, and its keytab."""
        self.admin(f"addprinc {' '.join(options)} -randkey {principal}")
        return self.write_keytab(principal, keytab)

    def write_keytab(self, principal: str, keytab: Path) -> Path:
        """A new key (the version goes up) into the keytab."""
        self.admin(f"ktadd -k {keytab} {principal}")
        return keytab

    def start(self) -> None:
        path = find_program("krb5kdc")
        assert path is not None
        self._process = self.namespace.popen([path, "-n", "-r", self.realm], environment=self.environment)
        deadline = time.monotonic() + 60
        log = self.folder / "kdc.log"
        while time.monotonic() < deadline:
            if log.exists() and "commencing operation" in log.read_text():
                return
            assert self._process.poll() is None, "the KDC ended at once"
            time.sleep(0.02)
        raise AssertionError("the KDC does not begin")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None
            (self.folder / "kdc.log").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

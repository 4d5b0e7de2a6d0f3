"""A real Active Directory domain controller (Debian's Samba) in a network namespace, provisioned from
scratch.

LDAP, Kerberos and DNS are Samba's own; nothing of the machine's own configuration is read or written.
Namespaces that shall find it (`join_network`) get a resolv.conf of their own, as `ip netns exec` binds it."""

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from stockade.lab.needs import SYSTEM_PATH, find_program
from stockade.lab.netns import Namespace

PROGRAMS = ("samba", "samba-tool", "ldbsearch", "ldbmodify", "ldbadd", "ldbdel", "smbclient", "kinit")
REALM = "LAB.TEST"
DOMAIN_DN = "DC=lab,DC=test"
PASSWORD = "Passw0rd.lab!"
IPSEC_CONTAINER = f"CN=IP Security,CN=System,{DOMAIN_DN}"
NETNS_FILES = Path("/etc/netns")
IPSEC_EXTENSION = "[{E437BC1C-AA7D-11D2-A382-00C04F991E27}{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}]"


def missing() -> str | None:
    """What the machine lacks for it, in words."""
    for program in PROGRAMS:
        if find_program(program) is None:
            packages = "samba-ad-dc, ldb-tools, smbclient, krb5-user"
            return f"the program {program} is not installed (Debian: {packages})"
    if not Path("/usr/share/samba/setup/ad-schema").is_dir():
        return "Samba's schema is not installed (Debian: samba-ad-provision)"
    for name in ("bonsai", "dns", "gssapi"):
        try:
            __import__(name)
        except ImportError:
            return f"the Python package {name} is not installed (pip install 'stockade[directory,kerberos]')"
    return None


def _path(program: str) -> str:
    path = find_program(program)
    assert path is not None, program
    return path


class DomainController:
    """`address`: where clients reach it, in `namespace`."""

    def __init__(
        self,
        namespace: Namespace,
        folder: Path,
        address: str,
        *,
        realm: str = REALM,
        name: str = "dc1",
    ) -> None:
        self.namespace, self.folder, self.address, self.realm, self.name = (
            namespace, folder, address, realm, name,
        )  # fmt: skip
        self.domain = realm.lower()
        self.domain_dn = ",".join(f"DC={label}" for label in self.domain.split("."))
        self.database = folder / "dc" / "private" / "sam.ldb"
        self.krb5_conf = folder / "krb5.conf"
        self._config = folder / "dc" / "etc" / "smb.conf"
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.krb5_conf.write_text(
            f"[libdefaults]\n  default_realm = {realm}\n  dns_lookup_kdc = true\n  dns_lookup_realm = false\n"
            "  rdns = false\n  dns_canonicalize_hostname = false\n"
        )
        self.tool(
            "domain", "provision", f"--realm={realm}", f"--domain={realm.partition('.')[0]}",
            "--server-role=dc", "--dns-backend=SAMBA_INTERNAL", f"--host-name={name}", f"--host-ip={address}",
            f"--adminpass={PASSWORD}", f"--targetdir={folder / 'dc'}", configured=False,
        )  # fmt: skip
        # two controllers may run on this machine
        own = f"\tpid directory = {folder / 'dc'}\n\tncalrpc dir = {folder / 'dc' / 'ncalrpc'}\n"
        text = self._config.read_text(encoding="utf-8")
        self._config.write_text(text.replace("[global]\n", f"[global]\n{own}", 1), encoding="utf-8")
        # a controller with all its services gives itself this name a while after its first start
        self.tool("spn", "add", f"ldap/{name}.{self.domain}", f"{name.upper()}$")

    # ---- its tools
    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "KRB5_CONFIG": str(self.krb5_conf),
            "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
        }

    def _run(self, argv: Sequence[str], text: str | None = None, *, inside: bool = False) -> str:
        result = subprocess.run(
            self.namespace.argv(argv) if inside else list(argv),
            env=self.environment, input=text, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (argv, result.stdout[-2000:], result.stderr[-2000:])
        return result.stdout

    def tool(self, *words: str, configured: bool = True) -> str:
        """`samba-tool`, on the database itself."""
        more = [f"--configfile={self._config}"] if configured else []
        return self._run([_path("samba-tool"), *words, *more])

    def online_tool(self, *words: str) -> str:
        """`samba-tool` through LDAP, for what it does not do on a database (group policy)."""
        login = ["-U", f"administrator%{PASSWORD}", "-H", f"ldap://{self.name}.{self.domain}"]
        return self._run([_path("samba-tool"), *words, *login, f"--configfile={self._config}"], inside=True)

    def search(
        self, base: str, expression: str = "(objectClass=*)", *attributes: str, scope: str = "sub"
    ) -> str:
        """What `ldbsearch` prints, unfolded."""
        argv = [
            _path("ldbsearch"),
            "-H",
            str(self.database),
            "-b",
            base,
            "-s",
            scope,
            expression,
            *attributes,
        ]
        return self._run(argv).replace("\n ", "")

    def modify(self, ldif: str) -> None:
        self._run([_path("ldbmodify"), "-H", str(self.database)], ldif)

    def add(self, dn: str, attributes: Mapping[str, str | bytes | Sequence[str]]) -> None:
        lines = [f"dn: {dn}"]
        for name, value in attributes.items():
            for one in [value] if isinstance(value, str | bytes) else value:
                text = one.encode() if isinstance(one, str) else one
                lines.append(f"{name}:: {base64.b64encode(text).decode()}")
        self._run([_path("ldbadd"), "-H", str(self.database)], "\n".join(lines) + "\n")

    def replace_data(self, dn: str, data: bytes) -> None:
        """Another ipsecData."""
        text = base64.b64encode(data).decode()
        self.modify(f"dn: {dn}\nchangetype: modify\nreplace: ipsecData\nipsecData:: {text}\n")

    def delete(self, dn: str) -> None:
        self._run([_path("ldbdel"), "-H", str(self.database), dn])

    def sysvol(self, gpo: str, name: str) -> bytes:
        """A file of a group policy object."""
        guid = gpo[3:41]
        return (self.folder / "dc" / "state" / "sysvol" / self.domain / "Policies" / guid / name).read_bytes()

    @property
    def authority(self) -> Path:
        """The certificate that its own one for LDAPS is signed with; it makes both when it first starts."""
        return self.folder / "dc" / "private" / "tls" / "ca.pem"

    # ---- what a domain has
    def add_computer(self, name: str, keytab: Path, unit: str = "") -> None:
        """A computer's account with the principals of a member, and its keytab. `unit`: DN of its OU."""
        place = [f"--computerou={unit}"] if unit else []
        self.tool("computer", "create", name, *place, f"--service-principal-name=host/{name}.{self.domain}")
        self.tool("user", "setpassword", f"{name}$", f"--newpassword={PASSWORD}")
        for principal in (f"host/{name}.{self.domain}", f"{name}$"):
            self.tool("domain", "exportkeytab", str(keytab), f"--principal={principal}")

    def let_members_read(self) -> None:
        """What a Windows domain has from the start: members read the IPsec objects. Samba's show them to
        administrators only."""
        self.tool("dsacl", "set", f"--objectdn=CN=IP Security,CN=System,{self.domain_dn}", "--action=allow",
                  "--sddl=(A;CI;RPLCLORC;;;AU)")  # fmt: skip

    def add_unit(self, dn: str) -> None:
        self.tool("ou", "create", dn)

    def create_gpo(self, name: str) -> str:
        """A group policy object; its DN."""
        printed = self.online_tool("gpo", "create", name, f"--tmpdir={self.folder}")
        guid = printed[printed.index("{") : printed.index("}") + 1]
        return f"CN={guid},CN=Policies,CN=System,{self.domain_dn}"

    def link_gpo(self, container: str, gpo: str, *options: str) -> None:
        self.online_tool("gpo", "setlink", container, gpo[3:41], *options)

    def unlink_gpo(self, container: str, gpo: str) -> None:
        self.online_tool("gpo", "dellink", container, gpo[3:41])

    def assign(self, gpo: str, policy: str) -> None:
        """Write the pointer of an IPsec policy (its DN) into the GPO, and name the extension there."""
        parent = f"CN=Machine,{gpo}"
        for name in ("Microsoft", "Windows"):
            parent = f"CN={name},{parent}"
            self.add(parent, {"objectClass": ["top", "container"]})
        self.add(
            f"CN=IPSEC,{parent}",
            {"objectClass": ["top", "ipsecBase", "ipsecPolicy"], "ipsecOwnersReference": policy},
        )
        self.modify(
            f"dn: {gpo}\nchangetype: modify\nreplace: gPCMachineExtensionNames\n"
            f"gPCMachineExtensionNames: {IPSEC_EXTENSION}\n"
        )

    # ---- its life
    def start(self) -> None:
        """Run LDAP, Kerberos and DNS; returns when a bind succeeds."""
        log = (self.folder / "samba.log").open("ab")
        services = "ldap,kdc,cldap,winbindd,dns,s3fs,rpc"
        with log:
            self._process = self.namespace.popen(
                [_path("samba"), "-i", "-M", "single", "-s", str(self._config),
                 f"--option=server services={services}", "--option=dns forwarder=",
                 f"--option=interfaces={self.address} 127.0.0.1", "--option=bind interfaces only=yes"],
                stdout=log.fileno(), environment=self.environment,
            )  # fmt: skip
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            argv = [_path("ldbsearch"), "-H", f"ldap://{self.address}", "-U", f"administrator%{PASSWORD}",
                    "-s", "base", "-b", self.domain_dn, "dn", f"--configfile={self._config}"]  # fmt: skip
            if self.namespace.run(argv, check=False, environment=self.environment).returncode == 0:
                return
            assert self._process.poll() is None, (self.folder / "samba.log").read_text()[-2000:]
            time.sleep(0.2)
        raise AssertionError("the domain controller does not begin")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(90)
            self._process = None

    def __enter__(self) -> Self:
        join_network(self.namespace, self.address)
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()
        leave_network(self.namespace)
        shutil.rmtree(self.folder, ignore_errors=True)


def join_network(namespace: Namespace, address: str) -> None:
    """What runs in the namespace from now on asks this address for names."""
    folder = NETNS_FILES / namespace.full_name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:1 attempts:2\n")


def leave_network(namespace: Namespace) -> None:
    shutil.rmtree(NETNS_FILES / namespace.full_name, ignore_errors=True)

"""What Stockade, strongSwan and libreswan try with each other, in the words of all three.

Every case has an address of its own at each peer, so one agent, one charon and one pluto hold all cases at
once and none is configured anew.
"""

from dataclasses import dataclass, field

from certificate_maker import Made, root, root_name

OURS = "10.7.3.1"
PRESHARED_KEY = "correct-horse-battery-staple"
PEERS = ("strongswan", "libreswan")
_FIRST_HOST = {"strongswan": 20, "libreswan": 120}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to protect traffic. `cannot`: which peers are not able to, and why."""

    name: str
    main_mode: str
    """netsh's mmsecmethods"""
    quick_mode: str
    """netsh's qmsecmethods"""
    ike: str
    esp: str
    """strongSwan's proposals, without a group"""
    libreswan_ike: str
    libreswan_esp: str
    group: str = ""
    """Perfect forward secrecy: strongSwan's word for the group of main mode, or nothing for none."""
    authentication: str = "psk"
    """psk, rsa, ecdsa, or chain: RSA with so many authorities that messages must be cut up"""
    cannot: dict[str, str] = field(default_factory=dict)
    swan_options: str = ""
    """More lines for the child of strongSwan's connection"""
    libreswan_options: str = ""

    def address(self, peer: str) -> str:
        return f"10.7.3.{_FIRST_HOST[peer] + CASES.index(self)}"

    # ---- Stockade
    def policy(self, peer: str) -> str:
        """The netsh commands of the rule for this case and peer."""
        name = f"{peer}-{self.name}"
        secrecy = "yes" if self.group else "no"
        method = {
            "psk": f'psk="{PRESHARED_KEY}"',
            "rsa": f'rootca="{root_name("RSA")}"',
            "ecdsa": f'rootca="{root_name("ECDSA")}"',
            "chain": f'rootca="{root_name("Chain")}"',
        }[self.authentication]
        return f"""\
ipsec static add filterlist name={name}
ipsec static add filter filterlist={name} srcaddr=me dstaddr={self.address(peer)} protocol=any mirrored=yes
ipsec static add filteraction name={name} action=negotiate qmpfs={secrecy} inpass=no soft=no \
qmsecmethods="{self.quick_mode}"
ipsec static add rule name={name} policy=peers filterlist={name} filteraction={name} {method}
"""

    # ---- strongSwan
    def swan_connection(self) -> str:
        local = self.address("strongswan")
        if self.authentication == "psk":
            ends = (f"auth = psk\n      id = {local}", f"auth = psk\n      id = {OURS}")
        else:
            name = self.authentication
            ends = (
                f'auth = pubkey\n      certs = {name}.pem\n      id = "{name}.theirs.test"',
                f"auth = pubkey\n      id = %any\n      cacerts = {name}.pem",
            )
        esp = self.esp + (f"-{self.group}" if self.group else "")
        return f"""\
  {self.name} {{
    version = 1
    local_addrs = {local}
    remote_addrs = {OURS}
    proposals = {self.ike}
    local {{
      {ends[0]}
    }}
    remote {{
      {ends[1]}
    }}
    children {{
      {self.name} {{
        mode = transport
        esp_proposals = {esp}
        {self.swan_options}
      }}
    }}
  }}
"""

    # ---- libreswan
    def libreswan_connection(self) -> str:
        lines = [
            "ikev2=no",
            "type=transport",
            f"left={self.address('libreswan')}",
            f"right={OURS}",
            f"ike={self.libreswan_ike}",
            f"phase2alg={self.libreswan_esp}",
            f"pfs={'yes' if self.group else 'no'}",
            "auto=ignore",
            "leftupdown=%disabled",
        ]
        if self.authentication == "psk":
            lines += ["authby=secret"]
        else:
            lines += ["authby=rsasig", f"leftcert={self.authentication}", "leftid=%fromcert"]
            lines += ["rightid=%fromcert", "leftsendcert=always", "rightrsasigkey=%cert"]
        return "".join(f"    {line}\n" for line in (*lines, *self.libreswan_options.split(";")) if line)


NO_DH2 = {"libreswan": "Debian builds it without the 1024-bit group (DH2)"}
NO_ECDSA = {"libreswan": "no ECDSA signatures in IKEv1"}

CASES = (
    Case(
        "psk-3des-sha1-modp1024",
        "3DES-SHA1-2",
        "ESP[3DES,SHA1]",
        "3des-sha1-modp1024",
        "3des-sha1",
        "3des-sha1;modp1024",
        "3des-sha1",
        cannot=NO_DH2,
    ),
    Case(
        "psk-3des-sha1-modp2048",
        "3DES-SHA1-3",
        "ESP[3DES,SHA1]",
        "3des-sha1-modp2048",
        "3des-sha1",
        "3des-sha1;modp2048",
        "3des-sha1",
    ),
    Case(
        "psk-aes128-sha1-modp2048-pfs",
        "AES128-SHA1-3",
        "ESP[AES128,SHA1]",
        "aes128-sha1-modp2048",
        "aes128-sha1",
        "aes128-sha1;modp2048",
        "aes128-sha1",
        "modp2048",
    ),
    Case(
        "psk-aes256-sha256-ecp256",
        "AES256-SHA256-ECP256",
        "ESP[AES256,SHA256]",
        "aes256-sha256-ecp256",
        "aes256-sha256",
        "aes256-sha2_256;dh19",
        "aes256-sha2_256",
    ),
    Case(
        "psk-aes-gcm-128-pfs",
        "AES256-SHA256-ECP256",
        "ESP[AESGCM128,None]",
        "aes256-sha256-ecp256",
        "aes128gcm16",
        "aes256-sha2_256;dh19",
        "aes_gcm128",
        "ecp256",
    ),
    Case(
        "rsa-aes128-sha1-modp2048-pfs",
        "AES128-SHA1-3",
        "ESP[AES128,SHA1]",
        "aes128-sha1-modp2048",
        "aes128-sha1",
        "aes128-sha1;modp2048",
        "aes128-sha1",
        "modp2048",
        authentication="rsa",
    ),
    Case(
        "rsa-aes-gcm-256",
        "AES256-SHA256-ECP256",
        "ESP[AESGCM256,None]",
        "aes256-sha256-ecp256",
        "aes256gcm16",
        "aes256-sha2_256;dh19",
        "aes_gcm256",
        authentication="rsa",
    ),
    Case(
        "ecdsa-aes256-sha256-ecp256-pfs",
        "AES256-SHA256-ECP256",
        "ESP[AES256,SHA256]",
        "aes256-sha256-ecp256",
        "aes256-sha256",
        "aes256-sha2_256;dh19",
        "aes256-sha2_256",
        "ecp256",
        authentication="ecdsa",
        cannot=NO_ECDSA,
    ),
    Case(
        "chain-in-fragments",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        authentication="chain",
    ),
)
BY_NAME = {case.name: case for case in CASES}
MAIN_MODE_METHODS = " ".join(dict.fromkeys(case.main_mode for case in CASES))


def policy() -> str:
    """The netsh script for all cases with all peers."""
    rules = [case.policy(peer) for peer in PEERS for case in CASES]
    head = "ipsec static delete all\nipsec static add policy name=peers activatedefaultrule=no"
    return "\n".join(
        [
            f'{head} mmsecmethods="{MAIN_MODE_METHODS}"',
            *rules,
            "ipsec static set policy name=peers assign=yes\n",
        ]
    )


class Public:
    """Roots, authorities and a certificate for each end: RSA, ECDSA, and RSA under a long chain."""

    def __init__(self, **valid: object) -> None:
        self.roots: dict[str, Made] = {}
        self.authorities: dict[str, tuple[Made, ...]] = {}
        self.ours: dict[str, Made] = {}
        self.theirs: dict[str, Made] = {}
        for name, title, kind, length in (
            ("rsa", "RSA", "rsa2048", 0),
            ("ecdsa", "ECDSA", "p256", 0),
            ("chain", "Chain", "rsa2048", 3),
        ):
            issuer = self.roots[name] = root(title, kind, **valid)
            chain = []
            for number in range(length):
                issuer = issuer.issue(f"{title} {number}", kind, authority=True, **valid)
                chain.append(issuer)
            self.authorities[name] = tuple(chain)
            self.ours[name] = issuer.issue(f"ours-{name}", kind, names=[f"{name}.ours.test"], **valid)
            self.theirs[name] = issuer.issue(f"theirs-{name}", kind, names=[f"{name}.theirs.test"], **valid)


class SwanCases:
    """strongSwan's configuration for all cases."""

    def __init__(self, public: Public) -> None:
        self._public = public

    def text(self) -> str:
        secrets = [
            f'  ike-{case.name} {{\n    secret = "{PRESHARED_KEY}"\n    id-1 = {case.address("strongswan")}\n'
            f"    id-2 = {OURS}\n  }}\n"
            for case in CASES
            if case.authentication == "psk"
        ]
        connections = [case.swan_connection() for case in CASES]
        return "".join(["connections {\n", *connections, "}\nsecrets {\n", *secrets, "}\n"])

    def files(self) -> dict[str, bytes]:
        places: dict[str, bytes] = {}
        for name, made in self._public.theirs.items():
            places[f"x509/{name}.pem"] = made.pem
            places[f"private/{name}.pem"] = made.key_pem
            places[f"x509ca/{name}.pem"] = self._public.roots[name].pem
            for number, authority in enumerate(self._public.authorities[name]):
                places[f"x509ca/{name}{number}.pem"] = authority.pem
        return places

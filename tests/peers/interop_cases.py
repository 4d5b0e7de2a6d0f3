"""What Stockade, strongSwan and libreswan try with each other, in the words of all three.

Every case has an address of its own at each peer, so one agent, one charon and one pluto hold all cases at
once and none is configured anew.
"""

import os
from dataclasses import dataclass, field

from certificate_maker import Made, root, root_name
from interop_combinations import EVERY, combinations

OURS = "10.7.3.1"
OUR_NETWORK, OUR_HOST = "10.81.0.0/24", "10.81.0.1"
NAT_INSIDE, NAT_OUTSIDE, NAT_THEIRS = "10.7.3.250", "10.9.3.1", "10.8.3.1"
"""The NAT's addresses in our network, in that of peers which see us through it, and in that of peers behind
it."""
ROLES = ("initiator", "responder")
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
    """More lines for strongSwan's connection"""
    swan_child_options: str = ""
    """More lines for its child"""
    libreswan_options: str = ""
    tunnel: bool = False
    """Between two networks behind the two ends"""
    nat: bool = False
    """The end that begins is behind a NAT."""
    protocol: str = "any"
    """What is protected, in netsh's word"""
    their_certificate: str = ""
    """The peer's, where it is another one than `authentication` says, which we refuse then."""
    our_key: str = PRESHARED_KEY
    our_methods: tuple[str, ...] = ()
    """Of authentication, in order, where our rule has others beside the peer's"""
    ah: bool = False
    """AH, and no ESP"""
    roles: tuple[str, ...] = ROLES
    main_mode_minutes: int = 0
    """Not 0: no rule of the policy but a dynamic one, with this lifetime of main modes, and both roles at
    once, each with an address of its own."""

    def number(self, peer: str, role: str) -> int:
        slots = [
            (case, one) for case in CASES for one in (case.roles if case.main_mode_minutes else ROLES[:1])
        ]
        return _FIRST_HOST[peer] + slots.index((self, role if self.main_mode_minutes else ROLES[0]))

    def own_address(self, peer: str, role: str) -> str:
        """The peer's address as it has it. `role` is ours."""
        if self.nat:
            return f"10.{9 if role == 'initiator' else 8}.3.{self.number(peer, role)}"
        return f"10.7.3.{self.number(peer, role)}"

    def address(self, peer: str, role: str) -> str:
        """The peer's address as we see it."""
        if self.nat and role == "responder":
            return f"10.7.3.{self.number(peer, role)}"  # which the NAT puts in the place of the peer's own
        return self.own_address(peer, role)

    def our_address(self, role: str) -> str:
        """Ours, as the peer sees it."""
        return NAT_OUTSIDE if self.nat and role == "initiator" else OURS

    def networks(self, peer: str, role: str) -> tuple[str, str]:
        """Ours and the peer's, in tunnel mode: its hosts are numbered as the case."""
        return OUR_NETWORK, f"10.{82 + ROLES.index(role)}.{self.number(peer, role)}.0/24"

    def traffic(self, peer: str, role: str) -> tuple[str, str]:
        """The addresses that speak: ours and the peer's, as seen from here."""
        if self.tunnel:
            return OUR_HOST, self.networks(peer, role)[1].replace(".0/24", ".1")
        return OURS, self.address(peer, role)

    def connection_name(self, role: str) -> str:
        """The peers' name for it, with the role where that makes a difference."""
        return f"{self.name}-{role}" if self.nat or self.tunnel or self.main_mode_minutes else self.name

    def connections(self) -> tuple[tuple[str, str], ...]:
        """(name, role) of the connections that a peer has for this case."""
        return tuple({self.connection_name(role): role for role in self.roles}.items())

    # ---- Stockade
    def policy(self, peer: str, role: str) -> str:
        """The netsh commands of the rules for this case and peer."""
        name = f"{peer}-{self.connection_name(role)}"
        secrecy = "yes" if self.group else "no"
        methods = {
            "psk": f'psk="{self.our_key}"',
            "rsa": f'rootca="{root_name("RSA")}"',
            "ecdsa": f'rootca="{root_name("ECDSA")}"',
            "chain": f'rootca="{root_name("Chain")}"',
        }
        method = " ".join(methods[name] for name in self.our_methods or (self.authentication,))
        if self.tunnel:
            ours, theirs = (network.replace("/24", "") for network in self.networks(peer, role))
            action = (
                f"ipsec static add filteraction name={name} action=negotiate qmpfs={secrecy} inpass=no"
                f' soft=no qmsecmethods="{self.quick_mode}"\n'
            )
            return action + "".join(
                f"ipsec static add filterlist name={name}-{way}\n"
                f"ipsec static add filter filterlist={name}-{way} srcaddr={source} srcmask=24"
                f" dstaddr={target} dstmask=24 protocol=any mirrored=no\n"
                f"ipsec static add rule name={name}-{way} policy=peers filterlist={name}-{way}"
                f" filteraction={name} tunnel={end} {method}\n"
                for way, source, target, end in (
                    ("out", ours, theirs, self.address(peer, role)),
                    ("in", theirs, ours, OURS),
                )
            )
        return f"""\
ipsec static add filterlist name={name}
ipsec static add filter filterlist={name} srcaddr=me dstaddr={self.address(peer, role)} \
protocol={self.protocol} mirrored=yes
ipsec static add filteraction name={name} action=negotiate qmpfs={secrecy} inpass=no soft=no \
qmsecmethods="{self.quick_mode}"
ipsec static add rule name={name} policy=peers filterlist={name} filteraction={name} {method}
"""

    def dynamic_rule(self, peer: str, role: str) -> str:
        """The netsh commands of the rule that the agent gets while it runs."""
        name = f"{peer}-{self.connection_name(role)}"
        return f"""\
ipsec dynamic add mmpolicy name={name} mmsecmethods="{self.main_mode}" mmlifetime={self.main_mode_minutes}
ipsec dynamic add qmpolicy name={name} qmsecmethods="{self.quick_mode}"
ipsec dynamic add rule srcaddr=me dstaddr={self.address(peer, role)} mmpolicy={name} qmpolicy={name} \
psk="{self.our_key}"
"""

    # ---- strongSwan
    def swan_connection(self, role: str) -> str:
        local, remote = self.own_address("strongswan", role), self.our_address(role)
        name_of_it = self.connection_name(role)
        if self.authentication == "psk":
            ends = (f"auth = psk\n      id = {local}", f"auth = psk\n      id = {OURS}")
        else:
            name, own = self.authentication, self.their_certificate or self.authentication
            ends = (
                f'auth = pubkey\n      certs = {own}.pem\n      id = "{own}.theirs.test"',
                f"auth = pubkey\n      id = %any\n      cacerts = {name}.pem",
            )
        esp = self.esp + (f"-{self.group}" if self.group else "")
        networks = self.networks("strongswan", role)
        selectors = f"local_ts = {networks[1]}\n        remote_ts = {networks[0]}" if self.tunnel else ""
        if self.protocol != "any":
            only = f"dynamic[{self.protocol.lower()}]"
            selectors = f"local_ts = {only}\n        remote_ts = {only}"
        return f"""\
  {name_of_it} {{
    version = 1
    local_addrs = {local}
    remote_addrs = {remote}
    {self.swan_options}
    proposals = {self.ike}
    local {{
      {ends[0]}
    }}
    remote {{
      {ends[1]}
    }}
    children {{
      {name_of_it} {{
        mode = {"tunnel" if self.tunnel else "transport"}
        {"ah" if self.ah else "esp"}_proposals = {esp}
        {selectors}
        {self.swan_child_options}
      }}
    }}
  }}
"""

    # ---- libreswan
    def libreswan_connection(self, role: str) -> str:
        lines = [
            "ikev2=no",
            f"type={'tunnel' if self.tunnel else 'transport'}",
            f"left={self.own_address('libreswan', role)}",
            f"right={self.our_address(role)}",
            f"ike={self.libreswan_ike}",
            f"phase2={'ah' if self.ah else 'esp'}",
            f"phase2alg={self.libreswan_esp}",
            f"pfs={'yes' if self.group else 'no'}",
            "auto=ignore",
            "leftupdown=%disabled",
        ]
        if self.authentication == "psk":
            lines += ["authby=secret", f"rightid={OURS}"]
        else:
            lines += [
                "authby=rsasig",
                f"leftcert={self.their_certificate or self.authentication}",
                "leftid=%fromcert",
            ]
            # by its name: from %fromcert libreswan does not find its way from one connection to another
            lines += [
                f'rightid="C=ZZ, O=Laboratory, CN=ours-{self.authentication}"',
                "leftsendcert=always",
                "rightrsasigkey=%cert",
            ]
        if self.tunnel:
            ours, theirs = self.networks("libreswan", role)
            lines += [f"leftsubnet={theirs}", f"rightsubnet={ours}"]
        if self.protocol != "any":
            lines += [f"{side}protoport={self.protocol.lower()}" for side in ("left", "right")]
        return "".join(f"    {line}\n" for line in (*lines, *self.libreswan_options.split(";")) if line)


NO_DH2 = {"libreswan": "Debian builds it without the 1024-bit group (DH2)"}
NO_ECDSA = {"libreswan": "no ECDSA signatures in IKEv1"}
NO_GMAC = {"libreswan": "pluto 4.10 ends with a failed assertion when it makes the SA"}
NO_BUNDLE = dict.fromkeys(PEERS, "AH or ESP for one connection, not one around the other")

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
    Case(
        "tunnel-aes128-sha256",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        tunnel=True,
    ),
    Case(
        "tunnel-aes-gcm-256-pfs",
        "AES256-SHA256-ECP256",
        "ESP[AESGCM256,None]",
        "aes256-sha256-ecp256",
        "aes256gcm16",
        "aes256-sha2_256;dh19",
        "aes_gcm256",
        "ecp256",
        tunnel=True,
    ),
    Case(
        "nat-transport-aes128-sha1",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA1]",
        "aes256-sha256-ecp256",
        "aes128-sha1",
        "aes256-sha2_256;dh19",
        "aes128-sha1",
        nat=True,
    ),
    Case(
        "nat-tunnel-aes-gcm-128",
        "AES256-SHA256-ECP256",
        "ESP[AESGCM128,None]",
        "aes256-sha256-ecp256",
        "aes128gcm16",
        "aes256-sha2_256;dh19",
        "aes_gcm128",
        nat=True,
        tunnel=True,
    ),
    Case(
        "certificate-or-key",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        our_methods=("ecdsa", "rsa", "psk"),
    ),
    Case(
        "key-or-certificate",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        authentication="rsa",
        our_methods=("psk", "ecdsa", "rsa"),
    ),
    Case(
        "psk-ah-sha1",
        "AES256-SHA256-ECP256",
        "AH[SHA1]",
        "aes256-sha256-ecp256",
        "sha1",
        "aes256-sha2_256;dh19",
        "sha1",
        ah=True,
        roles=ROLES if EVERY in os.environ else ROLES[1:],
    ),
    Case(
        "tunnel-ah-sha256-pfs",
        "AES256-SHA256-ECP256",
        "AH[SHA256]",
        "aes256-sha256-ecp256",
        "sha256",
        "aes256-sha2_256;dh19",
        "sha2_256",
        "ecp256",
        tunnel=True,
        ah=True,
    ),
    Case(
        "psk-ah-around-esp",
        "AES256-SHA256-ECP256",
        "AH[SHA1]+ESP[AES128,None]",
        "aes256-sha256-ecp256",
        "",
        "aes256-sha2_256;dh19",
        "",
        cannot=NO_BUNDLE,
    ),
    Case(
        "psk-null-sha256",
        "AES256-SHA256-ECP256",
        "ESP[None,SHA256]",
        "aes256-sha256-ecp256",
        "null-sha256",
        "aes256-sha2_256;dh19",
        "null-sha2_256",
        roles=ROLES if EVERY in os.environ else ROLES[:1],
    ),
    Case(
        "psk-aes-gmac-256",
        "AES256-SHA256-ECP256",
        "ESP[AESGMAC256,None]",
        "aes256-sha256-ecp256",
        "aes256gmac",
        "aes256-sha2_256;dh19",
        "null_auth_aes_gmac256",
        cannot=NO_GMAC,
        roles=ROLES if EVERY in os.environ else ROLES[1:],
    ),
    Case(
        "tcp-only",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        protocol="TCP",
    ),
    Case(
        "deleted-by-the-other-end",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
    ),
    Case(
        "another-preshared-key",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        our_key="wrong-horse",
        roles=("responder",),
    ),
    Case(
        "another-authority",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        authentication="rsa",
        their_certificate="chain",
        roles=("initiator",),
    ),
    Case(
        "rekey-by-the-peer",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        swan_options="reauth_time = 7s\n    rand_time = 0s\n    over_time = 20s",
        swan_child_options="rekey_time = 3s\n        life_time = 30s\n        rand_time = 0s",
        libreswan_options="salifetime=10s;ikelifetime=14s;rekeymargin=7s;rekeyfuzz=0%",
    ),
    Case(
        "rekey-by-us",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]:20480k/300s",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
    ),
    Case(
        "both-phases-by-us",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]:100000k/25s",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        main_mode_minutes=1,
    ),
    Case(
        "peer-asks-whether-we-live",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        swan_options="dpd_delay = 1s\n    dpd_timeout = 3s",
        swan_child_options="dpd_action = clear",
        libreswan_options="dpddelay=1;dpdtimeout=3;dpdaction=clear",
        roles=("initiator",),
    ),
    Case(
        "peer-killed",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
    ),
    Case(
        "agent-killed",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        roles=("initiator",),
    ),
    Case(
        "agent-stopped",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        roles=("initiator",),
    ),
    Case(
        "nat-mapping-changes",
        "AES256-SHA256-ECP256",
        "ESP[AES128,SHA256]",
        "aes256-sha256-ecp256",
        "aes128-sha256",
        "aes256-sha2_256;dh19",
        "aes128-sha2_256",
        nat=True,
        roles=ROLES if EVERY in os.environ else ROLES[1:],  # that libreswan follows us takes 20 s
    ),
    *combinations(Case, {"3des-sha1-modp1024": NO_DH2}),
    Case(
        "extended-sequence-numbers",
        "AES256-SHA256-ECP256",
        "ESP[AESGCM128,None]:ESN",
        "aes256-sha256-ecp256",
        "aes128gcm16-esn",
        "aes256-sha2_256;dh19",
        "aes_gcm128",
        cannot={"libreswan": "libreswan 4.10 did not take 64-bit sequence numbers in IKEv1"},
    ),
)
if EVERY in os.environ:  # the agent starts anew twice for each
    CASES += (
        Case(
            "nat-by-the-draft",
            "AES256-SHA256-ECP256",
            "ESP[AES128,SHA256]",
            "aes256-sha256-ecp256",
            "aes128-sha256",
            "aes256-sha2_256;dh19",
            "aes128-sha2_256",
            nat=True,
        ),
        Case(
            "nat-tunnel-by-the-draft",
            "AES256-SHA256-ECP256",
            "ESP[AES128,SHA256]",
            "aes256-sha256-ecp256",
            "aes128-sha256",
            "aes256-sha2_256;dh19",
            "aes128-sha2_256",
            nat=True,
            tunnel=True,
        ),
    )
BY_NAME = {case.name: case for case in CASES}
MAIN_MODE_METHODS = " ".join(dict.fromkeys(case.main_mode for case in CASES))


def policy(*, tunnels: bool) -> str:
    """The netsh script for all cases with all peers; without `tunnels` for those in transport mode only."""
    rules = [
        case.policy(peer, role)
        for peer in PEERS
        for case in CASES
        if (tunnels or not case.tunnel) and not case.main_mode_minutes
        for _, role in case.connections()
    ]
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


def swan_text() -> str:
    """strongSwan's configuration for all cases."""
    secrets = [f'  ike-all {{\n    secret = "{PRESHARED_KEY}"\n  }}\n']
    connections = [
        case.swan_connection(role)
        for case in CASES
        if "strongswan" not in case.cannot
        for _, role in case.connections()
    ]
    return "".join(["connections {\n", *connections, "}\nsecrets {\n", *secrets, "}\n"])


def swan_files(public: Public) -> dict[str, bytes]:
    """Its certificates and keys, by their places in its folder."""
    places: dict[str, bytes] = {}
    for name, made in public.theirs.items():
        places[f"x509/{name}.pem"] = made.pem
        places[f"private/{name}.pem"] = made.key_pem
        places[f"x509ca/{name}.pem"] = public.roots[name].pem
        for number, authority in enumerate(public.authorities[name]):
            places[f"x509ca/{name}{number}.pem"] = authority.pem
    return places

"""What the initiators of the handshake benchmarks are told, and the policy and the keys that they have."""

from dataclasses import dataclass
from ipaddress import ip_address

import msgspec

from stockade.model.addresses import Address
from stockade.model.negotiation import (
    AuthenticationMethod,
    Certificate,
    MainModePolicy,
    Mode,
    Negotiation,
    PresharedKey,
    QuickModeMatch,
    QuickModePolicy,
)
from stockade.model.reasons import Reason
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.pki.chain import Trust
from stockade.pki.credentials import Credentials, OwnCertificate


@dataclass(frozen=True, slots=True)
class CheapKeys:
    """The initiator's RSA key as decimal primes, its certificate as PEM, the DER of its subject and of its
    issuer as hex, and the modulus of the responder's key (`ike_cheap_keys.py`)."""

    primes: tuple[str, ...]
    certificate: str
    subject: str
    issuer: str
    responder_modulus: str


@dataclass(frozen=True, slots=True)
class Task:
    """What to do. `first` is the address of the first host, the others follow it; `main_only` stops after
    main mode, `windows` has it say that it is one (a responder then asks it to wait for its word). PEM texts
    as `pki`: certificate, key, root; without them the pre-shared key. `cheap`: the keys of `ike_light.py`.
    `core`: the processor to run on."""

    responder: str
    first: str
    count: int
    window: int
    group: str
    preshared_key: str
    main_only: bool = False
    tunnel: bool = False
    pki: tuple[str, str, str] | None = None
    root_name: str = ""
    seconds: float = 120.0
    cheap: CheapKeys | None = None
    windows: bool = False
    core: int | None = None

    @classmethod
    def read(cls, text: str) -> "Task":
        """What `written` wrote."""
        return msgspec.json.decode(text, type=cls)

    @property
    def written(self) -> str:
        return msgspec.json.encode(self).decode()


def suite(group: Group) -> MainModeProposal:
    return MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, group)


ESP = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA_256))


class OneRule:
    """A policy with one negotiation, for everybody."""

    def __init__(self, rule: Negotiation) -> None:
        self._rule = rule

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        return (self._rule,)

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        return QuickModeMatch(self._rule, requested, "benchmark")


def negotiation(task: Task) -> Negotiation:
    method: AuthenticationMethod = (
        Certificate(task.root_name) if task.pki else PresharedKey(Secret(task.preshared_key.encode()))
    )
    quick_mode = (
        QuickModePolicy((ESP,), mode=Mode.TUNNEL, tunnel_endpoint=ip_address(task.responder))
        if task.tunnel
        else QuickModePolicy((ESP,))
    )
    return Negotiation("benchmark", MainModePolicy((suite(Group(task.group)),)), quick_mode, (method,))


def credentials(task: Task) -> Credentials | None:
    if task.pki is None:
        return None
    import ssl

    from stockade.crypto.signatures import PrivateKey
    from stockade.pki.certificate import read_certificate

    certificate, root = (ssl.PEM_cert_to_DER_cert(text) for text in (task.pki[0], task.pki[2]))
    key = task.pki[1].encode()
    return Credentials(
        [OwnCertificate(read_certificate(certificate), PrivateKey.load(key))],
        Trust((read_certificate(root),)),
    )

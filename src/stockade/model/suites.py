"""Algorithms by name, and what one end offers the other: main-mode and quick-mode proposals.

An enumeration member is an algorithm *with* its key size. Its value is the name that users see (JSON, logs);
the word of `netsh ipsec` is `netsh_word` (Windows' own where it has one: `3DES`, `SHA1`; ours in the same
manner where Windows has none: `AES128`). Numbers on the wire, kernel names and the code itself live in
`stockade.crypto.registry`."""

from dataclasses import dataclass
from enum import StrEnum


class Encryption(StrEnum):
    """ESP and IKE ciphers. Combined-mode ciphers (`is_aead`) bring their own integrity."""

    NULL = "null"
    DES_CBC = "des-cbc"
    TRIPLE_DES_CBC = "3des-cbc"
    AES_CBC_128 = "aes-cbc-128"
    AES_CBC_192 = "aes-cbc-192"
    AES_CBC_256 = "aes-cbc-256"
    AES_GCM_128 = "aes-gcm-128"
    AES_GCM_192 = "aes-gcm-192"
    AES_GCM_256 = "aes-gcm-256"
    AES_CCM_128 = "aes-ccm-128"
    AES_CCM_192 = "aes-ccm-192"
    AES_CCM_256 = "aes-ccm-256"
    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_GMAC_128 = "aes-gmac-128"
    AES_GMAC_192 = "aes-gmac-192"
    AES_GMAC_256 = "aes-gmac-256"

    @property
    def is_aead(self) -> bool:
        """Brings its own integrity. GMAC does, and encrypts nothing (RFC 4543)."""
        return self in _COMBINED

    @property
    def is_confidential(self) -> bool:
        """Whether it hides anything at all."""
        return self is not Encryption.NULL and self not in _GMAC

    @property
    def netsh_word(self) -> str:
        return _ENCRYPTION_WORDS[self]


_GMAC = frozenset({Encryption.AES_GMAC_128, Encryption.AES_GMAC_192, Encryption.AES_GMAC_256})
_COMBINED = _GMAC | {
    Encryption.AES_GCM_128,
    Encryption.AES_GCM_192,
    Encryption.AES_GCM_256,
    Encryption.AES_CCM_128,
    Encryption.AES_CCM_192,
    Encryption.AES_CCM_256,
    Encryption.CHACHA20_POLY1305,
}
_ENCRYPTION_WORDS = {
    Encryption.NULL: "None",
    Encryption.DES_CBC: "DES",
    Encryption.TRIPLE_DES_CBC: "3DES",
    Encryption.AES_CBC_128: "AES128",
    Encryption.AES_CBC_192: "AES192",
    Encryption.AES_CBC_256: "AES256",
    Encryption.AES_GCM_128: "AESGCM128",
    Encryption.AES_GCM_192: "AESGCM192",
    Encryption.AES_GCM_256: "AESGCM256",
    Encryption.AES_CCM_128: "AESCCM128",
    Encryption.AES_CCM_192: "AESCCM192",
    Encryption.AES_CCM_256: "AESCCM256",
    Encryption.CHACHA20_POLY1305: "CHACHA20POLY1305",
    Encryption.AES_GMAC_128: "AESGMAC128",
    Encryption.AES_GMAC_192: "AESGMAC192",
    Encryption.AES_GMAC_256: "AESGMAC256",
}


class Hash(StrEnum):
    """Hash functions: IKE's hash and prf (as HMAC), and ESP/AH integrity (as truncated HMAC)."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA_256 = "sha-256"
    SHA_384 = "sha-384"
    SHA_512 = "sha-512"

    @property
    def netsh_word(self) -> str:
        return self.name.replace("_", "")


class Gmac(StrEnum):
    """AES-GMAC as the integrity of AH (RFC 4543); in ESP it stands in the place of the cipher
    (`Encryption.AES_GMAC_128` …)."""

    AES_GMAC_128 = "aes-gmac-128"
    AES_GMAC_192 = "aes-gmac-192"
    AES_GMAC_256 = "aes-gmac-256"

    @property
    def netsh_word(self) -> str:
        return self.name.replace("_", "")


_GMAC_VALUES = frozenset(member.value for member in Gmac)
Integrity = Hash | Gmac
"""What authenticates AH."""


def integrity_named(value: str) -> Integrity:
    """By the value of either enumeration; `ValueError` for any other word."""
    return Gmac(value) if value in _GMAC_VALUES else Hash(value)


class Group(StrEnum):
    """Diffie-Hellman groups (RFC 2409 §6, RFC 3526, RFC 5903, RFC 8031). The number is IANA's. Windows has no
    Curve25519 in IKEv1; strongSwan takes it there under the number of IKEv2, and so do we."""

    MODP_768 = "modp-768"
    MODP_1024 = "modp-1024"
    MODP_2048 = "modp-2048"
    ECP_256 = "ecp-256"
    ECP_384 = "ecp-384"
    CURVE_25519 = "curve-25519"

    @property
    def number(self) -> int:
        return _GROUP_NUMBERS[self]

    @property
    def netsh_word(self) -> str:
        """What `mmsecmethods` writes after the second dash: 1, 2 and 3 as in Windows, `ECP256`, `ECP384`;
        `X25519` is ours."""
        return _GROUP_WORDS[self]


_GROUP_NUMBERS = {
    Group.MODP_768: 1,
    Group.MODP_1024: 2,
    Group.MODP_2048: 14,
    Group.ECP_256: 19,
    Group.ECP_384: 20,
    Group.CURVE_25519: 31,
}
_GROUP_WORDS = {
    Group.MODP_768: "1",
    Group.MODP_1024: "2",
    Group.MODP_2048: "3",
    Group.ECP_256: "ECP256",
    Group.ECP_384: "ECP384",
    Group.CURVE_25519: "X25519",
}


@dataclass(frozen=True, slots=True)
class MainModeProposal:
    """One main-mode security method, such as `3DES-SHA1-2`."""

    encryption: Encryption
    hash: Hash
    group: Group

    def __post_init__(self) -> None:
        if self.encryption is Encryption.NULL or self.encryption.is_aead:
            raise ValueError(
                f"{self.encryption} cannot protect IKEv1 main mode (RFC 2409 needs a CBC cipher)"
            )

    def __str__(self) -> str:
        return f"{self.encryption.netsh_word}-{self.hash.netsh_word}-{self.group.netsh_word}"


@dataclass(frozen=True, slots=True)
class EspSuite:
    """Encryption and integrity of ESP. `integrity` is None exactly for combined-mode ciphers, or for the
    confidentiality-only form `ESP[3DES,None]`, which is allowed only under AH (checked by
    `QuickModeProposal`)."""

    encryption: Encryption
    integrity: Hash | None

    def __post_init__(self) -> None:
        if self.encryption.is_aead and self.integrity is not None:
            raise ValueError(
                f"{self.encryption} brings its own integrity; {self.integrity} beside it is an error"
            )
        if self.encryption is Encryption.NULL and self.integrity is None:
            raise ValueError("ESP with neither encryption nor integrity protects nothing")

    def __str__(self) -> str:
        integrity = "None" if self.integrity is None else self.integrity.netsh_word
        return f"ESP[{self.encryption.netsh_word},{integrity}]"


@dataclass(frozen=True, slots=True)
class QuickModeProposal:
    """One quick-mode security method, such as `ESP[3DES,SHA1]:100000k/3600s`: ESP, AH, or AH over ESP.

    `lifetime_seconds` and `lifetime_kilobytes` are positive; the defaults are Windows' own (KB 2790970).
    `extended_sequence`: sequence numbers of 64 bits (RFC 4304), which Windows has not.
    """

    esp: EspSuite | None = None
    ah: Integrity | None = None
    lifetime_seconds: int = 3600
    lifetime_kilobytes: int = 100_000
    extended_sequence: bool = False

    def __post_init__(self) -> None:
        if self.esp is None and self.ah is None:
            raise ValueError("a quick-mode method needs ESP or AH")
        if self.esp and self.ah is None and self.esp.integrity is None and not self.esp.encryption.is_aead:
            raise ValueError(f"{self.esp} has no integrity protection and no AH beside it")
        if self.lifetime_seconds < 1 or self.lifetime_kilobytes < 1:
            raise ValueError("lifetimes must be positive")

    def __str__(self) -> str:
        parts = []
        if self.ah is not None:
            parts.append(f"AH[{self.ah.netsh_word}]")
        if self.esp is not None:
            parts.append(str(self.esp))
        extended = "/ESN" if self.extended_sequence else ""
        return f"{'+'.join(parts)}:{self.lifetime_kilobytes}k/{self.lifetime_seconds}s{extended}"

"""Who a peer says it is: IKE identities (RFC 2407 §4.6.2.1)."""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address
from stockade.model.distinguished_names import name_text
from stockade.model.quickly_made import quickly_made


class IdentityType(IntEnum):
    """ID types of the IPsec DOI that name one peer (not a range of traffic)."""

    IPV4_ADDR = 1
    FQDN = 2
    USER_FQDN = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11
    KERBEROS_PRINCIPAL = 65001
    """Not a type of the wire (there they have one byte): proved by a Kerberos ticket."""


@quickly_made
@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated (or claimed) name. `type` is the number from the wire, known or not; `data` its
    bytes."""

    type: int
    data: bytes

    @classmethod
    def address(cls, address: Address) -> "Identity":
        kind = IdentityType.IPV4_ADDR if address.version == 4 else IdentityType.IPV6_ADDR
        return cls(kind, address.packed)

    @classmethod
    def principal(cls, name: str) -> "Identity":
        """A Kerberos principal, such as host/a.example.org@EXAMPLE.ORG."""
        return cls(IdentityType.KERBEROS_PRINCIPAL, name.encode())

    def __str__(self) -> str:
        try:
            if self.type == IdentityType.IPV4_ADDR:
                return str(IPv4Address(self.data))
            if self.type == IdentityType.IPV6_ADDR:
                return str(IPv6Address(self.data))
        except ValueError:
            pass
        if self.type in (IdentityType.FQDN, IdentityType.USER_FQDN, IdentityType.KERBEROS_PRINCIPAL):
            return self.data.decode("utf-8", "backslashreplace")
        if self.type == IdentityType.DER_ASN1_DN and (text := name_text(self.data)) is not None:
            return text
        return f"type {self.type}: {self.data.hex()}"

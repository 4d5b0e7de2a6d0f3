"""Rules: `NfaData` ⇄ what a `Rule` has besides its filter list and filter action ([MS-GPIPSEC] §2.2.1.4).

A pre-shared key stands in the blob as UTF-16 text; IKE uses its octets as UTF-8, which for the usual keys is
their ASCII. A CA stands there as text, since Vista as a DER name in the alternate list too."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address
from stockade.model.distinguished_names import is_der, name_text
from stockade.model.negotiation import AuthenticationMethod, Certificate, Kerberos, PresharedKey
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.policy.objects import ConnectionType, Rule
from stockade.store.formats.conversion.names import MAXIMUM_TEXT, clean
from stockade.store.formats.ipsec_data.nfa import (
    AUTHENTICATION_CERTIFICATE,
    AUTHENTICATION_KERBEROS,
    AUTHENTICATION_PRESHARED_KEY,
    FLAG_EXCLUDE_CA_NAME,
    FLAG_MAP_TO_ACCOUNT,
    INTERFACE_ALL,
    INTERFACE_DIALUP,
    INTERFACE_LAN,
    AuthenticationEntry,
    NfaData,
)
from stockade.store.formats.ipsec_data.text import EMPTY, WideText
from stockade.store.formats.problems import Problems

_INTERFACES = {
    INTERFACE_ALL: ConnectionType.ALL,
    INTERFACE_LAN: ConnectionType.LAN,
    INTERFACE_DIALUP: ConnectionType.DIALUP,
}
_INTERFACE_NUMBERS = {kind: number for number, kind in _INTERFACES.items()}


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """As a `Rule` has them. `tunnel_lost`: it is a tunnel rule whose end point cannot be said here."""

    authentication: tuple[AuthenticationMethod, ...]
    tunnel_endpoint: Address | None
    tunnel_lost: bool
    connection_type: ConnectionType
    active: bool

    def with_mapped_certificates(self) -> "RuleSettings":
        """The same, each certificate mapped to an account: a policy can ask that of all its rules."""
        methods = tuple(
            replace(method, map_to_account=True) if isinstance(method, Certificate) else method
            for method in self.authentication
        )
        return replace(self, authentication=methods)


def read_rule(data: NfaData, where: str, problems: Problems) -> RuleSettings:
    """The settings; what is not known here is a loss."""
    methods = []
    for position, entry in enumerate(data.authentication):
        flags = data.flags[position] if data.flags and position < len(data.flags) else 0
        alternate = data.alternate_authentication or ()
        other = alternate[position] if len(alternate) == len(data.authentication) else None
        try:
            methods.append(_method(entry, other, flags))
        except ValueError as error:
            problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"authentication method {position + 1}: {error}", where)
        if flags & ~(FLAG_MAP_TO_ACCOUNT | FLAG_EXCLUDE_CA_NAME):
            problems.note(f"authentication method {position + 1}: flags {flags:#x} are not all known", where)
    connection_type = _INTERFACES.get(data.interface_type)
    if connection_type is None:
        problems.loss(
            ReasonCode.NOT_EXPRESSIBLE,
            f"connection type {data.interface_type:#x} is not known; the rule applies to all connections",
            where,
        )
    if data.interface_name.text:
        problems.note("the name of one interface is not kept", where)
    endpoint = _tunnel_endpoint(data) if data.is_tunnel else None
    if data.is_tunnel and endpoint is None:
        problems.loss(
            ReasonCode.NOT_EXPRESSIBLE,
            "its tunnel ends at a DNS name" if data.tunnel_name.text else "its tunnel has no end point",
            where,
        )
    return RuleSettings(
        tuple(methods),
        endpoint,
        bool(data.is_tunnel) and endpoint is None,
        connection_type or ConnectionType.ALL,
        data.is_active != 0,
    )


def _tunnel_endpoint(data: NfaData) -> Address | None:
    if data.tunnel_address_ipv6 and any(data.tunnel_address_ipv6):
        return IPv6Address(data.tunnel_address_ipv6)
    return IPv4Address(data.tunnel_address) if any(data.tunnel_address) else None


def _method(
    entry: AuthenticationEntry, other: AuthenticationEntry | None, flags: int
) -> AuthenticationMethod:
    """ValueError says what does not fit; it never holds the key."""
    if entry.type == AUTHENTICATION_KERBEROS:
        return Kerberos()
    if entry.type == AUTHENTICATION_PRESHARED_KEY:
        try:
            text = entry.raw.decode("utf-16-le").partition("\0")[0].encode()
        except UnicodeError:
            raise ValueError("the pre-shared key is no UTF-16 text") from None
        if not text:
            raise ValueError("the pre-shared key is empty")
        return PresharedKey(Secret(text))
    if entry.type == AUTHENTICATION_CERTIFICATE:
        name = _ca_name(entry.raw)
        if not name and other is not None and other.type == AUTHENTICATION_CERTIFICATE:
            name = _ca_name(other.raw)
        if not name:
            raise ValueError("a certificate without the name of its CA")
        return Certificate(name, bool(flags & FLAG_EXCLUDE_CA_NAME), bool(flags & FLAG_MAP_TO_ACCOUNT))
    raise ValueError(f"type {entry.type} is not known")


def _ca_name(raw: bytes) -> str:
    """From DER or from text; empty where it is neither."""
    return clean((name_text(raw) or "") if is_der(raw) else WideText(raw).text, MAXIMUM_TEXT)


def write_rule(rule: Rule, *, with_secrets: bool, where: str, problems: Problems) -> NfaData:
    """The settings as a blob. Pre-shared keys only `with_secrets`; without, each is a loss."""
    entries: list[AuthenticationEntry] = []
    flags: list[int] = []
    for method in rule.authentication:
        entry = _entry(method, with_secrets, where, problems)
        if entry is None:
            continue
        entries.append(entry)
        flags.append(
            FLAG_EXCLUDE_CA_NAME * method.exclude_ca_name + FLAG_MAP_TO_ACCOUNT * method.map_to_account
            if isinstance(method, Certificate)
            else 0
        )
    endpoint = rule.tunnel_endpoint
    return NfaData(
        tuple(entries),
        _INTERFACE_NUMBERS[rule.connection_type],
        EMPTY,
        endpoint.packed if isinstance(endpoint, IPv4Address) else bytes(4),
        int(endpoint is not None),
        int(rule.active),
        EMPTY,
        None,
        tuple(flags) if any(flags) else None,
        None,
        endpoint.packed if isinstance(endpoint, IPv6Address) else None,
    )


def _entry(
    method: AuthenticationMethod, with_secrets: bool, where: str, problems: Problems
) -> AuthenticationEntry | None:
    if isinstance(method, Kerberos):
        return AuthenticationEntry(AUTHENTICATION_KERBEROS, EMPTY.raw)
    if isinstance(method, Certificate):
        return AuthenticationEntry(AUTHENTICATION_CERTIFICATE, WideText.of(method.root_ca).raw)
    if not with_secrets:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, "its pre-shared key: keys were not asked for", where)
        return None
    try:
        text = method.key.reveal().decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, "a pre-shared key that is no text", where)
        return None
    return AuthenticationEntry(AUTHENTICATION_PRESHARED_KEY, Secret(WideText.of(text).raw))

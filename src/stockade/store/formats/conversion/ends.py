"""The ends of filters: as both generations of blobs have them ⇄ `FilterAddress` ([MS-GPIPSEC] §2.2.1.5).

First generation: me 0.0.0.0/255.255.255.255, any 0.0.0.0/0.0.0.0, host and subnet with their mask; a DNS name
as a string, a kind of server as the byte *special* of the filter. It knows IPv4 only, and `me` and `any` are
read as the command language reads these words: of both families.
Second generation: a type, a version (IPv4, IPv6, both), an address, and a mask or last address.

Where a name or a kind of server counts, the address is a placeholder that matches no real peer: zeros would
mean "me" to a reader that knows the address only."""

from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address, AddressRange
from stockade.policy.objects import AddressKind, FilterAddress
from stockade.store.formats.ipsec_data import filters as blob
from stockade.store.formats.ipsec_data.text import EMPTY, WideText

_ONES = b"\xff" * 4
_ZEROS = bytes(4)
_PLACEHOLDER = (_ONES, _ONES)
_SERVERS = {
    blob.SPECIAL_DNS: AddressKind.DNS,
    blob.SPECIAL_WINS: AddressKind.WINS,
    blob.SPECIAL_DHCP: AddressKind.DHCP,
    blob.SPECIAL_GATEWAY: AddressKind.GATEWAY,
}
_SERVER_TYPES = {
    blob.ADDRESS_DNS: AddressKind.DNS,
    blob.ADDRESS_WINS: AddressKind.WINS,
    blob.ADDRESS_DHCP: AddressKind.DHCP,
    blob.ADDRESS_GATEWAY: AddressKind.GATEWAY,
}
_SPECIALS = {kind: special for special, kind in _SERVERS.items()}
_TYPES = {kind: type_ for type_, kind in _SERVER_TYPES.items()} | {AddressKind.ME: blob.ADDRESS_ME}
_VERSIONS = {blob.VERSION_IPV4: 4, blob.VERSION_IPV6: 6, blob.VERSION_BOTH: None}
_VERSION_NUMBERS = {version: number for number, version in _VERSIONS.items()}


def prefix_length(mask: bytes) -> int:
    """Of a dotted mask (ValueError where its ones do not stand together)."""
    inverse = int.from_bytes(mask, "big") ^ 0xFFFF_FFFF
    if inverse & (inverse + 1):
        raise ValueError(f"the ones of mask {IPv4Address(mask)} do not stand together")
    return 32 - inverse.bit_length()


def _dotted_mask(length: int) -> bytes:
    return (0xFFFF_FFFF << (32 - length) & 0xFFFF_FFFF).to_bytes(4, "big")


def _prefix(address: Address, length: int) -> FilterAddress:
    """The subnet around `address`; host bits are dropped, as Windows does."""
    host_bits = (1 << (address.max_prefixlen - length)) - 1
    first = int(address) & ~host_bits
    kind = type(address)
    return FilterAddress.of(AddressRange(kind(first), kind(first | host_bits)))


def end_name(end: FilterAddress) -> WideText:
    """The string that goes with the end."""
    return WideText.of(end.name) if end.kind is AddressKind.NAME else EMPTY


# -- first generation


def read_first(address: bytes, mask: bytes, name: str, special: int) -> FilterAddress:
    """An end; `special` is the kind of server that this end is, 0 for none. ValueError where there is no
    such end."""
    if special:
        if special not in _SERVERS:
            raise ValueError(f"server kind {special} is not known")
        return FilterAddress.server(_SERVERS[special])
    if name:
        return FilterAddress.named(name)
    if address == _ZEROS and mask in (_ZEROS, _ONES):
        return FilterAddress.any() if mask == _ZEROS else FilterAddress.me()
    return _prefix(IPv4Address(address), prefix_length(mask))


def write_first(end: FilterAddress) -> tuple[bytes, bytes] | None:
    """Address and mask, or None where the first generation cannot say it."""
    if end.version is not None:
        return None
    if end.kind is AddressKind.ME:
        return _ZEROS, _ONES
    if end.kind is AddressKind.ANY:
        return _ZEROS, _ZEROS
    if end.kind is AddressKind.NAME or end.kind in _SPECIALS:
        return _PLACEHOLDER
    if end.addresses is None or end.addresses.version != 4:
        return None
    length = end.addresses.prefix_length
    # 0.0.0.0/32 and 0.0.0.0/0 already mean me and any
    if length is None or (int(end.addresses.first) == 0 and length in (0, 32)):
        return None
    return end.addresses.first.packed, _dotted_mask(length)


def special_of(source: FilterAddress, destination: FilterAddress) -> int:
    """The byte that says which end is which kind of server (a valid filter has one at most)."""
    if source.kind in _SPECIALS:
        return _SPECIALS[source.kind]
    if destination.kind in _SPECIALS:
        return _SPECIALS[destination.kind] | blob.SPECIAL_DESTINATION
    return 0


# -- second generation


def read_second(spec: blob.AddressSpec, name: str, other: blob.AddressSpec) -> FilterAddress:
    """An end. ValueError where there is no such end. `any` has one family; where `other` says the same
    family, it need not say it again."""
    if spec.version not in _VERSIONS:
        raise ValueError(f"IP version {spec.version} is not known")
    version = _VERSIONS[spec.version]
    if spec.type in _SERVER_TYPES:
        return FilterAddress(_SERVER_TYPES[spec.type], version=version)
    if name:
        return FilterAddress(AddressKind.NAME, name=name.strip(), version=version)
    if spec.type == blob.ADDRESS_ME:
        return FilterAddress(AddressKind.ME, version=version)
    if spec.type == blob.ADDRESS_ANY:
        implied = other.type != blob.ADDRESS_ANY and other.version == spec.version
        return FilterAddress(AddressKind.ANY, version=None if implied else version)
    if version is None:
        raise ValueError("an address of both IP versions")
    address: Address = IPv4Address(spec.address[:4]) if version == 4 else IPv6Address(spec.address)
    if spec.type == blob.ADDRESS_SINGLE:
        return FilterAddress.of(address)
    if spec.type == blob.ADDRESS_RANGE:
        last: Address = IPv4Address(spec.secondary[:4]) if version == 4 else IPv6Address(spec.secondary)
        return FilterAddress.of(AddressRange(address, last))
    if spec.type == blob.ADDRESS_SUBNET:
        length = spec.secondary[0] if version == 6 else prefix_length(spec.secondary[:4])
        if length > address.max_prefixlen:
            raise ValueError(f"prefix length {length}")
        return _prefix(address, length)
    raise ValueError(f"address type {spec.type:#x} is not known")


def write_second(end: FilterAddress, family: int) -> blob.AddressSpec:
    """An end of a filter of IP `family` (4 or 6). Me and servers say their family only where they have
    one."""
    if end.kind in _TYPES:
        return blob.AddressSpec(_TYPES[end.kind], _VERSION_NUMBERS[end.version])
    number = _VERSION_NUMBERS[family]
    if end.kind is AddressKind.ANY:
        return blob.AddressSpec(blob.ADDRESS_ANY, number)
    if end.addresses is None:
        return blob.AddressSpec(
            blob.ADDRESS_SINGLE,
            _VERSION_NUMBERS[end.version],
            (b"\xff" * (4 if end.version == 4 else 16)).ljust(16, b"\0"),
        )
    first = end.addresses.first.packed.ljust(16, b"\0")
    length = end.addresses.prefix_length
    if end.addresses.is_host:
        return blob.AddressSpec(blob.ADDRESS_SINGLE, number, first)
    if length is None:
        return blob.AddressSpec(blob.ADDRESS_RANGE, number, first, end.addresses.last.packed.ljust(16, b"\0"))
    mask = bytes([length]) if family == 6 else _dotted_mask(length)
    return blob.AddressSpec(blob.ADDRESS_SUBNET, number, first, mask.ljust(16, b"\0"))

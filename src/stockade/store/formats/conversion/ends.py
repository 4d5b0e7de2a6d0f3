"""The ends of filters: as both generations of blobs have them ⇄ `FilterAddress` ([MS-GPIPSEC] §2.2.1.5).

First generation (IPv4): me 0.0.0.0/255.255.255.255, any 0.0.0.0/0.0.0.0, host and subnet with their mask.
Second generation: a type, a version, an address, and a mask or last address."""

from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address, AddressRange
from stockade.policy.objects import AddressKind, FilterAddress
from stockade.store.formats.ipsec_data import filters as blob

_ONES = b"\xff" * 4
_ZEROS = bytes(4)
_SERVERS = {
    blob.SPECIAL_DNS: "DNS servers",
    blob.SPECIAL_WINS: "WINS servers",
    blob.SPECIAL_DHCP: "DHCP servers",
    blob.SPECIAL_GATEWAY: "default gateway",
}
_SERVER_TYPES = {
    blob.ADDRESS_DNS: blob.SPECIAL_DNS,
    blob.ADDRESS_WINS: blob.SPECIAL_WINS,
    blob.ADDRESS_DHCP: blob.SPECIAL_DHCP,
    blob.ADDRESS_GATEWAY: blob.SPECIAL_GATEWAY,
}


class NoSuchEndError(ValueError):
    """This end cannot be said in the other form; the text says why."""


def server_end(special: int) -> FilterAddress:
    """The end that stands for the servers of this computer's interfaces."""
    word = _SERVERS.get(special)
    if word is None:
        raise NoSuchEndError(f"server kind {special} is not known")
    raise NoSuchEndError(f"an end that is the {word} of this computer")


def named_end(name: str) -> FilterAddress:
    """The end that stands for the addresses of a DNS name."""
    raise NoSuchEndError("an end that is a DNS name")


def prefix_length(mask: bytes) -> int:
    """Of a dotted mask (`NoSuchEndError` where its ones do not stand together)."""
    inverse = int.from_bytes(mask, "big") ^ 0xFFFF_FFFF
    if inverse & (inverse + 1):
        raise NoSuchEndError(f"the ones of mask {IPv4Address(mask)} do not stand together")
    return 32 - inverse.bit_length()


def _prefix(address: Address, length: int) -> FilterAddress:
    """The subnet around `address`; host bits are dropped, as Windows does."""
    host_bits = (1 << (address.max_prefixlen - length)) - 1
    first = int(address) & ~host_bits
    kind = type(address)
    return FilterAddress.of(AddressRange(kind(first), kind(first | host_bits)))


def read_first(address: bytes, mask: bytes, name: str, special: int) -> FilterAddress:
    """An end of the first generation; `special` is the server kind of this end, 0 for none."""
    if special:
        return server_end(special)
    if name:
        return named_end(name)
    if address == _ZEROS and mask in (_ZEROS, _ONES):
        return FilterAddress.any() if mask == _ZEROS else FilterAddress.me()
    return _prefix(IPv4Address(address), prefix_length(mask))


def write_first(end: FilterAddress) -> tuple[bytes, bytes] | None:
    """Address and mask, or None where the first generation cannot say it."""
    if end.kind is AddressKind.ME:
        return _ZEROS, _ONES
    if end.kind is AddressKind.ANY:
        return _ZEROS, _ZEROS
    if end.addresses is None or end.addresses.version != 4:
        return None
    length = end.addresses.prefix_length
    # 0.0.0.0/32 and 0.0.0.0/0 already mean me and any
    if length is None or (int(end.addresses.first) == 0 and length in (0, 32)):
        return None
    return end.addresses.first.packed, (0xFFFF_FFFF << (32 - length) & 0xFFFF_FFFF).to_bytes(4, "big")


def read_second(spec: blob.AddressSpec, name: str, other_version: int) -> FilterAddress:
    """An end of the second generation. `other_version` is that of the other end (`any` of one family needs
    no saying where the other end is of that family)."""
    if spec.type in _SERVER_TYPES:
        return server_end(_SERVER_TYPES[spec.type])
    if name:
        return named_end(name)
    if spec.type == blob.ADDRESS_ME:
        return FilterAddress.me()
    if spec.version not in (blob.VERSION_IPV4, blob.VERSION_IPV6, blob.VERSION_BOTH):
        raise NoSuchEndError(f"IP version {spec.version} is not known")
    if spec.type == blob.ADDRESS_ANY:
        if spec.version == blob.VERSION_IPV6 and other_version != blob.VERSION_IPV6:
            return FilterAddress.of(AddressRange.everything(6))
        return FilterAddress.any()
    if spec.version == blob.VERSION_BOTH:
        raise NoSuchEndError("an address of both IP versions")
    if spec.version == blob.VERSION_IPV4:
        address: Address = IPv4Address(spec.address[:4])
        last: Address = IPv4Address(spec.secondary[:4])
    else:
        address, last = IPv6Address(spec.address), IPv6Address(spec.secondary)
    if spec.type == blob.ADDRESS_SINGLE:
        return FilterAddress.of(address)
    if spec.type == blob.ADDRESS_RANGE:
        if int(address) > int(last):
            raise NoSuchEndError(f"range {address}-{last} ends before it begins")
        return FilterAddress.of(AddressRange(address, last))
    if spec.type == blob.ADDRESS_SUBNET:
        length = spec.secondary[0] if address.version == 6 else prefix_length(spec.secondary[:4])
        if length > address.max_prefixlen:
            raise NoSuchEndError(f"prefix length {length}")
        return _prefix(address, length)
    raise NoSuchEndError(f"address type {spec.type:#x} is not known")


def explicit_version(spec: blob.AddressSpec) -> int:
    """The version of an end that names addresses, else 0."""
    named = (blob.ADDRESS_SINGLE, blob.ADDRESS_RANGE, blob.ADDRESS_SUBNET)
    return spec.version if spec.type in named else 0


def write_second(end: FilterAddress, version: int) -> blob.AddressSpec:
    """An end for a filter of IP `version` (4 or 6)."""
    family = blob.VERSION_IPV4 if version == 4 else blob.VERSION_IPV6
    if end.kind is AddressKind.ME:
        return blob.AddressSpec(blob.ADDRESS_ME, family)
    if end.kind is AddressKind.ANY or (end.addresses is not None and end.addresses.is_everything):
        return blob.AddressSpec(blob.ADDRESS_ANY, family)
    if end.addresses is None:
        raise NoSuchEndError(f"an end of kind {end.kind}")
    first = end.addresses.first.packed.ljust(16, b"\0")
    length = end.addresses.prefix_length
    if end.addresses.is_host:
        return blob.AddressSpec(blob.ADDRESS_SINGLE, family, first)
    if length is None:
        return blob.AddressSpec(blob.ADDRESS_RANGE, family, first, end.addresses.last.packed.ljust(16, b"\0"))
    mask = (
        bytes([length]) if version == 6 else (0xFFFF_FFFF << (32 - length) & 0xFFFF_FFFF).to_bytes(4, "big")
    )
    return blob.AddressSpec(blob.ADDRESS_SUBNET, family, first, mask.ljust(16, b"\0"))

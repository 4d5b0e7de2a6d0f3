"""The kinds of value that parameters take: yes|no, numbers, names, addresses, masks, protocols, ports, GUIDs.

A `Kind` knows how to read its words, how help names it and which words there are. Reading raises `ValueError`
with a text for people; the grammar adds the word, its place and what was expected."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, ip_address
from typing import Generic, TypeVar
from uuid import UUID

from stockade.model.addresses import Address, AddressRange
from stockade.model.secret import Secret
from stockade.netsh.words import nearest
from stockade.policy.objects import AddressKind, check_name

T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)

MAXIMUM_NAME = 255  # characters
MAXIMUM_TEXT = 2_000
MAXIMUM_KEY = 1_024  # octets of a pre-shared key
MAXIMUM_COUNT = 2_147_483_647
LINE_SIGNS = "\t\n\r"  # in descriptions; a script writes them as %U+000A% and so on

RESERVED_NAME = "all"  # `delete policy all`, `show rule all …`


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A kind of value. `label` stands in the usage line, `expected` in errors; `words` are the valid words
    where they can be listed (nearest word, completion). `secret`: the text must not be shown."""

    label: str
    expected: str
    parse: Callable[[str], T_co]
    words: tuple[str, ...] = ()
    secret: bool = False


def choice(members: type[E], label: str = "") -> Kind[E]:
    """One of the values of an enumeration."""
    by_word = {member.value.casefold(): member for member in members}
    words = tuple(member.value for member in members)
    return words_to(by_word, words, label)


def words_to(by_word: dict[str, T_co], words: tuple[str, ...], label: str = "") -> Kind[T_co]:
    """One of given words (keys of `by_word` case-folded), each with its meaning."""

    def parse(text: str) -> T_co:
        try:
            return by_word[text.strip().casefold()]
        except KeyError:
            raise ValueError("it is none of these words") from None

    return Kind(label or "|".join(words), " or ".join(words), parse, words)


YES_NO: Kind[bool] = words_to({"yes": True, "y": True, "no": False, "n": False}, ("yes", "no"))


def _number(text: str, least: int, most: int) -> int:
    stripped = text.strip()
    if not (stripped.isascii() and stripped.isdigit() and len(stripped) <= 12):
        raise ValueError("it is not a decimal number")
    value = int(stripped)
    if not least <= value <= most:
        raise ValueError(f"it is outside {least}–{most}")
    return value


def number(least: int, most: int, label: str = "<number>", unit: str = "") -> Kind[int]:
    return Kind(
        label,
        f"a number from {least} to {most}" + (f" ({unit})" if unit else ""),
        lambda text: _number(text, least, most),
    )


def plain(text: str, most: int, allowed: str = "") -> str:
    if len(text) > most:
        raise ValueError(f"it has more than {most} characters")
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in allowed:
            raise ValueError(f"it holds the control character U+{ord(character):04X}")
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("a name must not be empty")
    return plain(text, MAXIMUM_NAME)


def _rule_name(text: str) -> str:
    return _new_name(text) if text else ""


def _new_name(text: str) -> str:
    name = _name(text)
    if name.casefold() == RESERVED_NAME:
        raise ValueError(f"“{RESERVED_NAME}” is reserved: it stands for every object")
    return name


NAME = Kind("<name>", "the name of an object", _name)
NEW_NAME = Kind("<name>", "a name other than “all”", _new_name)
NAME_OR_ALL = Kind("<name>|all", "the name of an object, or all", _name)
RULE_NAME = Kind("<name>", 'a name other than “all”, or "" for none', _rule_name)
TEXT = Kind("<text>", "text", lambda text: plain(text, MAXIMUM_TEXT, LINE_SIGNS))
FILE_NAME = Kind("<file>", "the name of a file", lambda text: plain(text, MAXIMUM_TEXT) or _no_file())


def _no_file() -> str:
    raise ValueError("the name of a file must not be empty")


def _guid(text: str) -> UUID:
    stripped = text.strip()
    if stripped.startswith("{") != stripped.endswith("}") or len(stripped) not in (36, 38):
        raise ValueError("it is not a GUID")
    try:
        return UUID(stripped)
    except ValueError:
        raise ValueError("it is not a GUID") from None


GUID = Kind("{guid}", "a GUID such as {72385230-70FA-11D1-864C-14A300000000}", _guid)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("it is not a time such as 2003-05-05T13:02:03+00:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


MOMENT = Kind("<time>", "a time such as 2003-05-05T13:02:03+00:00", _moment)


def _key(text: str) -> Secret:
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it is not text") from None
    if not 1 <= len(encoded) <= MAXIMUM_KEY:
        raise ValueError(f"a key has 1 to {MAXIMUM_KEY} octets")
    return Secret(encoded)


PRESHARED_KEY = Kind("<key>", f"a key of 1 to {MAXIMUM_KEY} octets", _key, secret=True)


def _key_in_hexadecimal(text: str) -> Secret:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        raise ValueError("it is not hexadecimal") from None
    if not 1 <= len(key) <= MAXIMUM_KEY:
        raise ValueError(f"a key has 1 to {MAXIMUM_KEY} octets")
    return Secret(key)


PRESHARED_KEY_HEX = Kind(
    "<hex>", f"a key of 1 to {MAXIMUM_KEY} octets, in hexadecimal", _key_in_hexadecimal, secret=True
)


# -- addresses


@dataclass(frozen=True, slots=True)
class AddressWord:
    """An address as written, before its mask is known: `me`, `any`, a kind of server, a DNS name, one address
    or a range. `complete`: it may not get a mask (a range, or it brought its own as `/length`)."""

    kind: AddressKind
    addresses: AddressRange | None = None
    complete: bool = False
    name: str = ""
    version: int | None = None


_KEYWORDS = tuple(kind.value for kind in AddressKind if kind not in (AddressKind.ADDRESSES, AddressKind.NAME))


def _one_address(text: str) -> Address:
    try:
        address = ip_address(text)
    except (ValueError, AddressValueError):
        raise ValueError(f"“{text[:60]}” is not an IP address") from None
    if address.version == 6 and address.scope_id is not None:
        raise ValueError("an address with a zone (%) cannot stand in a filter")
    return address


def prefix_range(address: Address, length: int) -> AddressRange:
    """The prefix of `length` bits around `address`; host bits are dropped, as in a filter of Windows."""
    host_bits = (1 << (address.max_prefixlen - length)) - 1
    first = int(address) & ~host_bits
    kind = type(address)
    return AddressRange(kind(first), kind(first | host_bits))


def _filter_address(text: str) -> AddressWord:
    word = text.strip()
    family = re.fullmatch(r"(.+)@([46])", word)
    if family is not None:
        # Ours, for policies that Windows' own form limits to one family: me@4, any@6, host.example@4.
        plain_word = _filter_address(family[1])
        if plain_word.addresses is not None or plain_word.version is not None:
            raise ValueError("@4 and @6 go with me, any, names and kinds of server")
        return AddressWord(plain_word.kind, name=plain_word.name, version=int(family[2]))
    if word.casefold() in _KEYWORDS:
        return AddressWord(AddressKind(word.casefold()))
    if "/" in word:
        address_text, _, length_text = word.partition("/")
        address = _one_address(address_text)
        return AddressWord(
            AddressKind.ADDRESSES, prefix_range(address, mask_length(length_text, address)), True
        )
    if "-" in word and _is_address(word.partition("-")[0].strip()):
        first, _, last = word.partition("-")
        return AddressWord(
            AddressKind.ADDRESSES, AddressRange(_one_address(first.strip()), _one_address(last.strip())), True
        )
    if _is_address(word) or ":" in word:
        return AddressWord(AddressKind.ADDRESSES, AddressRange.host(_one_address(word)))
    return AddressWord(AddressKind.NAME, name=_dns_name(word))


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except (ValueError, AddressValueError):
        return False
    return True


def looks_mistyped(name: str) -> bool:
    """Whether a DNS name of one label is close to one of the words for addresses. It takes a dot at its end
    then: a mistyped word must not become a name that matches nothing."""
    return "." not in name and nearest(name, _KEYWORDS) is not None


def _dns_name(word: str) -> str:
    check_name(word)
    if looks_mistyped(word):
        raise ValueError("it is none of the words for addresses; a name of one label takes a dot at its end")
    bare = word.removesuffix(".")
    return bare if looks_mistyped(bare) else word


FILTER_ADDRESS = Kind(
    "me|any|<address>[/<length>]|<first>-<last>|<DNS name>|DNS|WINS|DHCP|GATEWAY",
    "me, any, an IPv4 or IPv6 address (with /length for a subnet), a range a-b, a DNS name, or one of "
    "DNS, WINS, DHCP, GATEWAY",
    _filter_address,
    _KEYWORDS,
)


def _mask(text: str) -> str:
    word = text.strip()
    # Any family fits here; against its address the mask is read a second time.
    if "." in word:
        mask_length(word, IPv4Address(0))
    else:
        _number(word, 0, 128)
    return word


MASK = Kind("<mask>", "a mask such as 255.255.255.0, or a prefix length", _mask)


def mask_length(text: str, address: Address) -> int:
    """The prefix length that a dotted mask or a number means for `address` (ValueError if it fits not)."""
    word = text.strip()
    if "." not in word:
        return _number(word, 0, address.max_prefixlen)
    if address.version == 6:
        raise ValueError("an IPv6 address takes a prefix length, not a dotted mask")
    try:
        mask = int(IPv4Address(word))
    except AddressValueError:
        raise ValueError("it is not a dotted mask") from None
    inverse = mask ^ 0xFFFF_FFFF
    if inverse & (inverse + 1):
        raise ValueError("the ones of a mask must stand together, at its beginning")
    return 32 - inverse.bit_length()


def _endpoint(text: str) -> Address | str | None:
    word = text.strip()
    if _is_address(word) or ":" in word:
        address = _one_address(word)
        return None if int(address) == 0 else address
    if word.casefold() in _KEYWORDS:
        raise ValueError("a tunnel ends at an address or a DNS name")
    return _dns_name(word)


TUNNEL_ENDPOINT = Kind(
    "<address>|<DNS name>", "the address or name of the tunnel's other end; 0.0.0.0 for none", _endpoint
)

# -- protocols and ports

_PROTOCOLS = {"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "raw": 255}


def _protocol(text: str) -> int:
    word = text.strip().casefold()
    if word in _PROTOCOLS:
        return _PROTOCOLS[word]
    if not word.isdigit():
        raise ValueError("it is no protocol")
    return _number(word, 0, 255)


PROTOCOL = Kind(
    "ANY|ICMP|TCP|UDP|RAW|<0-255>",
    "ANY, ICMP, TCP, UDP, RAW, or a number from 0 to 255",
    _protocol,
    ("ANY", "ICMP", "TCP", "UDP", "RAW"),
)
PORT = number(0, 65_535, "<port>", "0 means any")

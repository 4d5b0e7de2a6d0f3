"""Security methods and authentication as netsh writes them.

    mmsecmethods="3DES-SHA1-2 AES256-SHA256-ECP256"          encryption-hash-group, blank-separated, in order
    qmsecmethods="ESP[3DES,SHA1]:100000k/3600s AH[SHA1]+ESP[AES128,None] ESP[AESGCM128,None]:ESN"
    rootca="CN=Example Root, O=\\'Example\\' certmap:yes excludecaname:no"

The words of Windows (DES, 3DES, MD5, SHA1, groups 1 to 3) and ours beside them (AES128 … AESGMAC256,
SHA256 …, ECP256, ECP384) come from `netsh_word` of `stockade.model.suites`: a new algorithm there is
a word here. `ESN` among the lifetimes is ours: sequence numbers of 64 bits (RFC 4304)."""

import re

from stockade.model.negotiation import Certificate
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Gmac,
    Group,
    Hash,
    Integrity,
    MainModeProposal,
    QuickModeProposal,
)
from stockade.netsh.values import MAXIMUM_COUNT, MAXIMUM_TEXT, Kind, plain
from stockade.netsh.words import nearest, shown

MAXIMUM_METHODS = 64  # more than any peer reads; netsh itself takes far fewer
MAXIMUM_SECONDS = 172_799  # the user interface of Windows stops there

_ENCRYPTIONS = {member.netsh_word.casefold(): member for member in Encryption}
_HASHES = {member.netsh_word.casefold(): member for member in Hash}
_INTEGRITIES: dict[str, Integrity] = {
    **_HASHES,
    **{member.netsh_word.casefold(): member for member in Gmac},
}
_GROUPS = {member.netsh_word.casefold(): member for member in Group}

_MAIN_MODE_ENCRYPTIONS = tuple(
    member.netsh_word for member in Encryption if member is not Encryption.NULL and not member.is_aead
)
_ESP_ENCRYPTIONS = tuple(member.netsh_word for member in Encryption)
_HASH_WORDS = tuple(member.netsh_word for member in Hash)
_GROUP_WORDS = tuple(member.netsh_word for member in Group)


def _problem(word: str, what: str, candidates: tuple[str, ...]) -> ValueError:
    close = nearest(word, candidates)
    hint = f"; nearest: {close}" if close else ""
    return ValueError(f"“{shown(word)}” is no {what} ({', '.join(candidates)}{hint})")


def _encryption(word: str, candidates: tuple[str, ...]) -> Encryption:
    found = _ENCRYPTIONS.get(word.casefold())
    if found is None or found.netsh_word not in candidates:
        raise _problem(word, "encryption", candidates)
    return found


def _hash(word: str) -> Hash:
    found = _HASHES.get(word.casefold())
    if found is None:
        raise _problem(word, "hash", _HASH_WORDS)
    return found


def _integrity(word: str) -> Integrity:
    found = _INTEGRITIES.get(word.casefold())
    if found is None:
        raise _problem(word, "hash", (*_HASH_WORDS, *(member.netsh_word for member in Gmac)))
    return found


def main_mode_method(text: str) -> MainModeProposal:
    """One method, such as `3DES-SHA1-2` (ValueError with the part that does not fit)."""
    parts = text.split("-")
    if len(parts) != 3:
        raise ValueError(f"“{shown(text)}” is not encryption-hash-group, such as 3DES-SHA1-2")
    group = _GROUPS.get(parts[2].casefold())
    if group is None:
        raise _problem(parts[2], "group", _GROUP_WORDS)
    return MainModeProposal(_encryption(parts[0], _MAIN_MODE_ENCRYPTIONS), _hash(parts[1]), group)


def _main_mode_methods(text: str) -> tuple[MainModeProposal, ...]:
    words = text.split()
    if not 1 <= len(words) <= MAXIMUM_METHODS:
        raise ValueError(f"there are {len(words)} methods; 1 to {MAXIMUM_METHODS} are possible")
    return tuple(main_mode_method(word) for word in words)


_PART = re.compile(r"(ESP|AH)\[([^\[\]]*)\]", re.IGNORECASE)
_LIFETIME = re.compile(r"([0-9]{1,10})([ks])", re.IGNORECASE)
_EXTENDED = "esn"


def quick_mode_method(text: str) -> QuickModeProposal:
    """One method, such as `AH[SHA1]+ESP[3DES,None]:100000k/3600s/ESN` (ValueError with the part that does
    not fit)."""
    suites, colon, lifetimes = text.partition(":")
    esp: EspSuite | None = None
    ah: Integrity | None = None
    for part in suites.split("+"):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"“{shown(part)}” is neither ESP[encryption,hash] nor AH[hash]")
        arguments = [argument.strip() for argument in match[2].split(",")]
        if match[1].casefold() == "ah":
            if len(arguments) != 1:
                raise ValueError(f"“{shown(part)}”: AH takes one hash")
            if ah is not None:
                raise ValueError(f"“{shown(text)}” names AH twice")
            ah = _integrity(arguments[0])
        else:
            if len(arguments) != 2:
                raise ValueError(f"“{shown(part)}”: ESP takes an encryption and a hash")
            if esp is not None:
                raise ValueError(f"“{shown(text)}” names ESP twice")
            esp = _esp_suite(*arguments)
    seconds, kilobytes, extended = _lifetimes(lifetimes) if colon else (None, None, False)
    usual = QuickModeProposal(ah=Hash.SHA1)
    return QuickModeProposal(
        esp, ah, seconds or usual.lifetime_seconds, kilobytes or usual.lifetime_kilobytes, extended
    )


def _esp_suite(encryption: str, integrity: str) -> EspSuite:
    cipher = _encryption(encryption, _ESP_ENCRYPTIONS)
    return EspSuite(cipher, None if integrity.casefold() == "none" else _hash(integrity))


def _lifetimes(text: str) -> tuple[int | None, int | None, bool]:
    found: dict[str, int] = {}
    extended = False
    for part in text.split("/"):
        if part.casefold() == _EXTENDED:
            if extended:
                raise ValueError(f"“{shown(text)}” names ESN twice")
            extended = True
            continue
        match = _LIFETIME.fullmatch(part)
        if match is None:
            raise ValueError(f"“{shown(part)}” is no lifetime, such as 100000k or 3600s, nor ESN")
        unit, value = match[2].casefold(), int(match[1])
        if unit in found:
            raise ValueError(f"“{shown(text)}” names the same lifetime twice")
        most = MAXIMUM_SECONDS if unit == "s" else MAXIMUM_COUNT
        if not 1 <= value <= most:
            raise ValueError(f"lifetime {value}{unit} is outside 1–{most}")
        found[unit] = value
    return found.get("s"), found.get("k"), extended


def _quick_mode_methods(text: str) -> tuple[QuickModeProposal, ...]:
    # A blank after a comma or around a plus is not what parts two methods.
    words = re.sub(r" ?([,+\[]) ?| (\])", lambda match: match[1] or match[2], " ".join(text.split())).split()
    if not 1 <= len(words) <= MAXIMUM_METHODS:
        raise ValueError(f"there are {len(words)} methods; 1 to {MAXIMUM_METHODS} are possible")
    return tuple(quick_mode_method(word) for word in words)


MAIN_MODE_METHODS = Kind(
    '"<encryption>-<hash>-<group> …"',
    'methods such as "3DES-SHA1-2 AES256-SHA256-ECP256", the most wanted one first',
    _main_mode_methods,
)
QUICK_MODE_METHODS = Kind(
    '"ESP[<encryption>,<hash>][:<k>k/<s>s[/ESN]] AH[<hash>] AH[…]+ESP[…] …"',
    'methods such as "ESP[AES128,SHA256]:100000k/3600s AH[SHA1]", the most wanted one first',
    _quick_mode_methods,
)

_OPTION = re.compile(r"\s+(certmap|excludecaname)\s*:\s*(\S+)\s*$", re.IGNORECASE)


def _root_ca(text: str) -> Certificate:
    """A CA's name and its two switches."""
    rest = plain(text, MAXIMUM_TEXT)
    options: dict[str, bool] = {}
    while match := _OPTION.search(rest):
        option, word = match[1].casefold(), match[2].casefold()
        if option in options:
            raise ValueError(f"{option}: stands twice")
        if word not in ("yes", "y", "no", "n"):
            raise ValueError(f"{option}: takes yes or no, not “{shown(word)}”")
        options[option] = word.startswith("y")
        rest = rest[: match.start()]
    name = rest.replace("\\'", '"').strip()
    if not name:
        raise ValueError("the name of the CA is missing")
    return Certificate(name, options.get("excludecaname", False), options.get("certmap", False))


ROOT_CA = Kind(
    '"<CA name> [certmap:yes|no] [excludecaname:yes|no]"',
    "the name of a root CA, and certmap:yes|no, excludecaname:yes|no where wanted",
    _root_ca,
)

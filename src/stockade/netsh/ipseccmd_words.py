"""The words of an `ipseccmd` one-liner, read into a `Request`. The language is described in `ipseccmd`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from stockade.model.addresses import Address
from stockade.model.filters import Action
from stockade.model.negotiation import (
    DEFAULT_MAIN_MODE_PROPOSALS,
    AuthenticationMethod,
    Certificate,
    Kerberos,
    PresharedKey,
)
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.suites import Encryption, EspSuite, Hash, MainModeProposal, QuickModeProposal
from stockade.netsh.methods import main_mode_method, quick_mode_method
from stockade.netsh.session import Session
from stockade.netsh.static_common import tunnel_endpoint
from stockade.netsh.values import (
    FILTER_ADDRESS,
    MASK,
    NEW_NAME,
    PORT,
    PRESHARED_KEY,
    PROTOCOL,
    TUNNEL_ENDPOINT,
    mask_length,
    prefix_range,
)
from stockade.netsh.words import nearest, shown, syntax_error
from stockade.policy.dynamic import (
    PfsGroup,
)
from stockade.policy.objects import (
    ConnectionType,
    Filter,
    FilterAddress,
)

DEFAULT_METHODS = tuple(
    QuickModeProposal(EspSuite(encryption, integrity))
    for encryption in (Encryption.TRIPLE_DES_CBC, Encryption.DES_CBC)
    for integrity in (Hash.SHA1, Hash.MD5)
)
_FLAGS = ("-f", "-n", "-t", "-a", "-1s", "-1k", "-1p", "-1f", "-1e", "-soft", "-confirm", "-dialup", "-lan",
          "-w", "-p", "-r", "-x", "-y", "-o", "-u")  # fmt: skip
_WITHOUT_VALUE = frozenset({"-1p", "-soft", "-confirm", "-dialup", "-lan", "-x", "-y", "-o", "-u"})
_LISTS = frozenset({"-f", "-n", "-a", "-1s"})


@dataclass(frozen=True, slots=True)
class FilterSpec:
    filter: Filter
    action: Action | None = None  # None: what -n says


@dataclass(slots=True)
class Request:
    """What the flags say."""

    filters: list[FilterSpec] = field(default_factory=list)
    default_response: bool = False
    methods: tuple[QuickModeProposal, ...] = DEFAULT_METHODS
    action: Action = Action.NEGOTIATE
    inpass: bool = False
    pfs: PfsGroup = PfsGroup.NOPFS
    soft: bool = False
    tunnel: Address | None = None
    authentication: tuple[AuthenticationMethod, ...] = (Kerberos(),)
    main_mode_methods: tuple[MainModeProposal, ...] = DEFAULT_MAIN_MODE_PROPOSALS
    quick_modes: int = 0
    main_mode_minutes: int = 480
    soft_minutes: int = 480
    master_pfs: bool = False
    connection_type: ConnectionType = ConnectionType.ALL
    location: str = ""
    policy: str = ""
    polling_minutes: int | None = None
    rule: str = ""
    assign: bool | None = None
    delete: bool = False
    confirm: bool = False


def read_request(words: Sequence[str], session: Session) -> Request:
    request = Request()
    given: set[str] = set()
    for flag, values in _flags(words):
        if flag in given:
            raise syntax_error(f"{flag} stands twice", word=flag, expected="it once")
        given.add(flag)
        try:
            _take(request, flag, values, session)
        except ValueError as error:
            raise syntax_error(
                f"{flag}: {error}",
                word=None if flag == "-a" else " ".join(values),
                expected=_EXPECTED.get(flag, ""),
            ) from None
    _check(request, given)
    return request


def _flags(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    place = 0
    while place < len(words):
        flag = words[place].casefold()
        place += 1
        if flag not in _FLAGS:
            # What follows -a may be a part of a key: it is not repeated.
            hidden = "-a" in (word.casefold() for word in words[:place])
            raise syntax_error(
                "a flag is expected",
                word=None if hidden else flag,
                expected=", ".join(_FLAGS),
                candidates=_FLAGS,
            )
        values: list[str] = []
        while place < len(words) and words[place].casefold() not in _FLAGS:
            if flag in _WITHOUT_VALUE or (values and flag not in _LISTS):
                break
            values.append(words[place])
            place += 1
        if not values and flag not in _WITHOUT_VALUE:
            raise syntax_error(f"{flag} needs a value", word=flag, expected=_EXPECTED.get(flag, ""))
        yield flag, values


_EXPECTED = {
    "-f": "A/mask:port=B/mask:port:protocol",
    "-n": "ESP[3DES,SHA] …, AH[SHA] …, BLOCK, PASS or INPASS",
    "-t": "an address",
    "-a": "KERBEROS, PRESHARE:key or CERT:name",
    "-1s": "methods such as 3DES-SHA-2",
    "-1k": "10q, 300s or 10q/3600s",
    "-1e": "a number of seconds",
    "-w": "REG or PERS",
    "-p": "a name, and :minutes where wanted",
    "-r": "a name",
}


def _take(request: Request, flag: str, values: list[str], session: Session) -> None:
    if flag == "-f":
        for value in values:
            if value.casefold() == "default":
                request.default_response = True
            else:
                request.filters.append(_filter(value))
    elif flag == "-n":
        _take_action(request, values)
    elif flag == "-t":
        request.tunnel = tunnel_endpoint(session, TUNNEL_ENDPOINT.parse(values[0]))
    elif flag == "-a":
        request.authentication = tuple(map(_authentication, values))
    elif flag == "-1s":
        request.main_mode_methods = tuple(main_mode_method(_sha1(value)) for value in values)
    elif flag == "-1k":
        _take_rekey(request, values[0])
    elif flag == "-1e":
        request.soft_minutes = max(1, -(-_number(values[0]) // 60))
    elif flag == "-1f":
        raise error_for(ReasonCode.NOT_AVAILABLE, "-1f: filters for main mode alone")
    elif flag == "-w":
        _take_location(request, values[0])
    elif flag == "-p":
        name, colon, minutes = values[0].rpartition(":")
        if colon and minutes.isascii() and minutes.isdigit():
            request.policy, request.polling_minutes = NEW_NAME.parse(name), _number(minutes)
        else:
            request.policy = NEW_NAME.parse(values[0])
    elif flag == "-r":
        request.rule = NEW_NAME.parse(values[0])
    elif flag in ("-dialup", "-lan"):
        request.connection_type = ConnectionType(flag[1:])
    else:
        request.soft |= flag == "-soft"
        request.confirm |= flag == "-confirm"
        request.master_pfs |= flag == "-1p"
        request.delete |= flag == "-o"
        if flag in ("-x", "-y"):
            request.assign = flag == "-x"


def _check(request: Request, given: set[str]) -> None:
    if given & {"-dialup"} and given & {"-lan"}:
        raise syntax_error("-dialup and -lan exclude each other", expected="one of them")
    if {"-x", "-y"} <= given:
        raise syntax_error("-x and -y exclude each other", expected="one of them")
    if "-u" in given:
        raise syntax_error("-u stands alone", word="-u", expected="-u without anything else")
    if request.location:
        if not request.policy and request.assign is not False:
            raise syntax_error("-w needs -p", expected="-p NAME")
        if request.filters and not request.rule:
            raise syntax_error("-f with -w needs -r", expected="-r NAME")
        return
    static = sorted(given & {"-p", "-r", "-x", "-y", "-o"})
    if static:
        raise syntax_error(f"{static[0]} goes with -w", word=static[0], expected="-w REG")
    if not request.filters:
        raise syntax_error("nothing to do without -f", expected="-f and a filter")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"“{shown(text)}” is no number")
    return int(text)


_FILTER = re.compile(r"([^=+]+)([=+])([^=+]+)")
_WILDCARD = re.compile(r"(?:\d{1,3}\.){1,3}(?:\*\.?){1,3}")


def _filter(text: str) -> FilterSpec:
    action = None
    for open_, close, meant in (("(", ")", Action.PERMIT), ("[", "]", Action.BLOCK)):
        if text.startswith(open_) and text.endswith(close):
            text, action = text[1:-1], meant
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ValueError(f"“{shown(text)}” is no filter")
    source, source_port, rest = _spec_end(match[1])
    if rest:
        raise ValueError("a protocol stands after the destination")
    destination, destination_port, protocol = _spec_end(match[3])
    number = PROTOCOL.parse(protocol) if protocol else 0
    made = Filter(source, destination, number, source_port, destination_port, match[2] == "+")
    return FilterSpec(made, action)


def _spec_end(text: str) -> tuple[FilterAddress, int, str]:
    """Address, port and what follows them."""
    address, _, rest = text.partition(":")
    port, _, protocol = rest.partition(":")
    if port and not port.isdigit() and not protocol:
        port, protocol = "", port
    return _address(address.strip()), PORT.parse(port) if port else 0, protocol.strip()


def _address(text: str) -> FilterAddress:
    if text == "0":
        return FilterAddress.me()
    if text == "*":
        return FilterAddress.any()
    if _WILDCARD.fullmatch(text):
        octets = [octet for octet in text.split(".") if octet != "*"]
        if len(text.split(".")) != 4:
            raise ValueError(f"“{shown(text)}” has not four parts")
        base = IPv4Address(".".join(octets + ["0"] * (4 - len(octets))))
        return FilterAddress.of(prefix_range(base, 8 * len(octets)))
    bare, slash, mask = text.partition("/")
    word = FILTER_ADDRESS.parse(bare)
    if slash:
        if word.addresses is None:
            raise ValueError("a mask goes with an address only")
        first = word.addresses.first
        return FilterAddress.of(prefix_range(first, mask_length(MASK.parse(mask), first)))
    return FilterAddress(word.kind, word.addresses, word.name, word.version)


_METHOD = re.compile(
    r"(.*\])(?:[:,]?((?:\d+[ks])(?:/\d+[ks])?))?(?:(?:PFS|P)([123])?)?", re.IGNORECASE | re.DOTALL
)


def _take_action(request: Request, values: list[str]) -> None:
    words = [part for value in values for part in value.split()]
    methods = []
    for word in words:
        key = word.casefold()
        if key in ("block", "pass"):
            if len(words) > 1:
                raise ValueError(f"{word} stands alone")
            request.action = Action.BLOCK if key == "block" else Action.PERMIT
        elif key == "inpass":
            request.inpass = True
        else:
            match = _METHOD.fullmatch(word)
            if match is None:
                close = nearest(word, ("BLOCK", "PASS", "INPASS", "ESP[3DES,SHA]", "AH[SHA]"))
                raise ValueError(f"“{shown(word)}” is no method" + (f"; nearest: {close}" if close else ""))
            lifetime = f":{match[2]}" if match[2] else ""
            methods.append(quick_mode_method(_sha1(match[1]) + lifetime))
            if re.search(r"(?:PFS|P)[123]?$", word[len(match[1]) :], re.IGNORECASE):
                request.pfs = PfsGroup(f"grp{match[3]}") if match[3] else PfsGroup.GRPMM
    if methods:
        request.methods = tuple(methods)


def _sha1(text: str) -> str:
    """`SHA` is SHA1 here."""
    return re.sub(r"\bSHA\b", "SHA1", text, flags=re.IGNORECASE)


def _authentication(text: str) -> AuthenticationMethod:
    word, _, value = text.partition(":")
    key = word.casefold()
    value = value.removeprefix('"').removesuffix('"')
    if key and "kerberos".startswith(key):
        return Kerberos()
    if key and "preshare".startswith(key):
        return PresharedKey(PRESHARED_KEY.parse(value))
    if key and "cert".startswith(key):
        if not value.strip():
            raise ValueError("the name of the CA is missing")
        return Certificate(value.strip())
    raise ValueError("it is none of KERBEROS, PRESHARE:key, CERT:name")


def _take_rekey(request: Request, text: str) -> None:
    for part in text.split("/"):
        if part[-1:].casefold() == "q":
            request.quick_modes = _number(part[:-1])
        elif part[-1:].casefold() == "s":
            request.main_mode_minutes = max(1, -(-_number(part[:-1]) // 60))
        else:
            raise ValueError(f"“{shown(part)}” is neither 10q nor 300s")


def _take_location(request: Request, text: str) -> None:
    kind, _, where = text.partition(":")
    if kind.casefold() == "ds":
        raise error_for(ReasonCode.NOT_AVAILABLE, f"the domain store ({shown(where)})")
    locations = {"reg": "local", "pers": "persistent"}
    if kind.casefold() not in locations:
        raise ValueError(f"“{shown(text)}” is no store")
    request.location = locations[kind.casefold()]

"""A script that rebuilds what is there: `dump`, and the readable form of `exportpolicy`.

    # stockade policy script 1
    # Keys are left out. Fill in these lines and take the mark at their beginning away.
    # set PSK_1=
    ipsec static
    add filterlist name=Web guid={…} modified=…
    add filter filterlist=Web srcaddr=me dstaddr=10.0.0.0/8 protocol=TCP …
    …

The script is exact: GUIDs and times of last modification are in it (parameters of ours). Every value is read
back by its own parser before it is written; what the language cannot say (a name with a control character,
for one) is refused as NOT_EXPRESSIBLE, never written as something else. Characters that a line cannot hold,
and the percent sign, are written `%U+hhhh%`.

Without keys the script does not run: `refuse_blanks` finds what is not filled in before the first command."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from stockade.model.negotiation import AuthenticationMethod, Certificate, Kerberos, PresharedKey
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import protocol_name
from stockade.netsh.data import end_word
from stockade.netsh.methods import MAIN_MODE_METHODS, QUICK_MODE_METHODS, ROOT_CA
from stockade.netsh.values import (
    FILTER_ADDRESS,
    LINE_SIGNS,
    NEW_NAME,
    PRESHARED_KEY,
    PROTOCOL,
    RULE_NAME,
    TEXT,
    Kind,
)
from stockade.netsh.words import quoted, shown
from stockade.policy.objects import (
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
    normal_name,
)

HEADER = "# stockade policy script 1"
_BLANK = re.compile(r"%(PSK_[0-9]+)%")
_FILLED = re.compile(r"^\s*set\s+(PSK_[0-9]+)=.", re.IGNORECASE | re.MULTILINE)

T = TypeVar("T")


class Keys:
    """How keys are written: as they are, or as blanks that are counted."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self.blanks: list[str] = []  # what each stands for

    def tag(self, method: PresharedKey, where: str, *, first: bool) -> str:
        if not self._shown:
            self.blanks.append(where)
            return f'{"psk" if first else "pskhex"}="%PSK_{len(self.blanks)}%"'
        octets = method.key.reveal()
        if first and _is_plain(octets):
            return f"psk={written(octets.decode('utf-8'))}"
        return f"pskhex={octets.hex()}"


def _is_plain(octets: bytes) -> bool:
    """Whether the key is text that `psk=` takes back as the same octets."""
    try:
        text = octets.decode("utf-8")
        return text.isprintable() and PRESHARED_KEY.parse(text).reveal() == octets
    except ValueError:
        return False


def written(text: str) -> str:
    """A value in a script: quoted, and what a line cannot hold as `%U+hhhh%`."""
    escaped = "".join(f"%U+{ord(sign):04X}%" if sign == "%" or sign in LINE_SIGNS else sign for sign in text)
    if escaped != text and not any(sign in text for sign in ' "='):
        return f'"{escaped}"'  # what it stands for parts words
    return quoted(escaped)


def _tag(tag: str, kind: Kind[T], text: str, meant: T, where: str) -> str:
    """`tag=value`, if the value is read back as what is meant."""
    try:
        same = kind.parse(text) == meant
    except ValueError:
        same = False
    if not same:
        raise error_for(
            ReasonCode.NOT_EXPRESSIBLE,
            f"{tag} of {where}: {shown(text)}",
            object=where,
            parameter=tag,
        )
    return f"{tag}={written(text)}"


def _flag(tag: str, value: bool) -> str:
    return f"{tag}={'yes' if value else 'no'}"


def _description(text: str, where: str) -> list[str]:
    return [_tag("description", TEXT, text, text, where)] if text else []


def _identity(guid: UUID, modified: datetime) -> list[str]:
    return [f"guid={{{guid}}}", f"modified={modified.isoformat()}"]


# -- objects


def _end(tag: str, end: FilterAddress, where: str) -> str:
    text = end_word(end)
    try:
        word = FILTER_ADDRESS.parse(text)
        same = (word.kind, word.addresses, normal_name(word.name), word.version) == (
            end.kind,
            end.addresses,
            normal_name(end.name),
            end.version,
        )
    except ValueError:
        same = False
    if not same:
        raise error_for(ReasonCode.NOT_EXPRESSIBLE, f"{tag} of {where}", object=where, parameter=tag)
    return f"{tag}={written(text)}"


def filter_words(entry: Filter, where: str) -> list[str]:
    """The parameters of a filter."""
    name = protocol_name(entry.protocol).upper()
    protocol = name if name in PROTOCOL.words else str(entry.protocol)
    words = [
        _end("srcaddr", entry.source, where),
        _end("dstaddr", entry.destination, where),
        _tag("protocol", PROTOCOL, protocol, entry.protocol, where),
        f"srcport={entry.source_port}",
        f"dstport={entry.destination_port}",
        _flag("mirrored", entry.mirrored),
    ]
    return [*words, *_description(entry.description, where)]


def _filter_list(entry: FilterList) -> Iterator[str]:
    where = f"filter list “{shown(entry.name)}”"
    name = _tag("name", NEW_NAME, entry.name, entry.name, where)
    words = [name, *_description(entry.description, where), *_identity(entry.guid, entry.modified)]
    yield f"add filterlist {' '.join(words)}"
    seen: set[Filter] = set()
    for number, one in enumerate(entry.filters, start=1):
        words = ["filterlist" + name.removeprefix("name"), *filter_words(one, f"filter {number} of {where}")]
        key = _traffic(one)
        if key in seen:
            words.append("duplicate=yes")
        seen.add(key)
        yield f"add filter {' '.join(words)}"
    if entry.filters:
        yield f"set filterlist {name} modified={entry.modified.isoformat()}"


def _traffic(entry: Filter) -> Filter:
    return Filter(
        entry.source,
        entry.destination,
        entry.protocol,
        entry.source_port,
        entry.destination_port,
        entry.mirrored,
    )


def _filter_action(entry: FilterAction) -> str:
    where = f"filter action “{shown(entry.name)}”"
    words = [
        _tag("name", NEW_NAME, entry.name, entry.name, where),
        *_description(entry.description, where),
        _flag("qmpfs", entry.session_pfs),
        _flag("inpass", entry.inpass),
        _flag("soft", entry.soft),
        f"action={entry.action.value}",
    ]
    if entry.methods:
        text = " ".join(map(str, entry.methods))
        words.append(_tag("qmsecmethods", QUICK_MODE_METHODS, text, entry.methods, where))
    return f"add filteraction {' '.join([*words, *_identity(entry.guid, entry.modified)])}"


def authentication_words(methods: Sequence[AuthenticationMethod], keys: Keys, where: str) -> Iterator[str]:
    """`kerberos=`, `psk=` and `rootca=` in their order."""
    if not methods or sum(isinstance(method, Kerberos) for method in methods) > 1:
        raise error_for(
            ReasonCode.NOT_EXPRESSIBLE,
            f"{where} has no authentication method, or Kerberos twice",
            object=where,
        )
    first = True
    for method in methods:
        if isinstance(method, PresharedKey):
            yield keys.tag(method, where, first=first)
            first = False
        elif isinstance(method, Certificate):
            yield _root_ca(method, where)
        else:
            yield "kerberos=yes"


def _root_ca(method: Certificate, where: str) -> str:
    options = f"certmap:{'yes' if method.map_to_account else 'no'}"
    options += f" excludecaname:{'yes' if method.exclude_ca_name else 'no'}"
    name = method.root_ca.replace('"', "\\'")
    return _tag("rootca", ROOT_CA, f"{name} {options}", method, where)


def _rule(rule: Rule, policy: Policy, keys: Keys) -> str:
    which = "the default response rule" if rule.is_default_response else f"rule “{shown(rule.name)}”"
    where = f"{which} of policy “{shown(policy.name)}”"
    owner = _tag("policy", NEW_NAME, policy.name, policy.name, where)
    if rule.is_default_response:
        words = [owner, _flag("activate", rule.active), _flag("qmpfs", rule.response_session_pfs)]
        if rule.response_methods:
            text = " ".join(map(str, rule.response_methods))
            words.append(_tag("qmsecmethods", QUICK_MODE_METHODS, text, rule.response_methods, where))
        words += authentication_words(rule.authentication, keys, where)
        return f"set defaultrule {' '.join([*words, *_identity(rule.guid, rule.modified)])}"
    words = [
        _tag("name", RULE_NAME, rule.name, rule.name, where),
        owner,
        _tag("filterlist", NEW_NAME, rule.filter_list, rule.filter_list, where),
        _tag("filteraction", NEW_NAME, rule.filter_action, rule.filter_action, where),
        *([] if rule.tunnel_endpoint is None else [f"tunnel={rule.tunnel_endpoint}"]),
        f"conntype={rule.connection_type.value}",
        _flag("activate", rule.active),
        *_description(rule.description, where),
        *authentication_words(rule.authentication, keys, where),
    ]
    return f"add rule {' '.join([*words, *_identity(rule.guid, rule.modified)])}"


def _policy(policy: Policy, keys: Keys) -> Iterator[str]:
    where = f"policy “{shown(policy.name)}”"
    name = _tag("name", NEW_NAME, policy.name, policy.name, where)
    methods = " ".join(map(str, policy.main_mode_methods))
    defaults = [rule for rule in policy.rules if rule.is_default_response]
    if len(defaults) > 1 or any(rule.is_default_response for rule in policy.rules[:-1]):
        raise error_for(
            ReasonCode.NOT_EXPRESSIBLE,
            f"{where}: its default response rule is not its last rule",
            object=where,
        )
    words = [
        name,
        *_description(policy.description, where),
        _flag("mmpfs", policy.master_pfs),
        f"qmpermm={policy.quick_modes_per_main_mode}",
        f"mmlifetime={policy.main_mode_minutes}",
        f"pollinginterval={policy.polling_minutes}",
        _tag("mmsecmethods", MAIN_MODE_METHODS, methods, policy.main_mode_methods, where),
        *_identity(policy.guid, policy.modified),
        *([] if defaults else ["hasdefaultrule=no"]),
    ]
    yield f"add policy {' '.join(words)}"
    for rule in policy.rules:
        yield _rule(rule, policy, keys)
    yield f"set policy {name} {_flag('assign', policy.assigned)} modified={policy.modified.isoformat()}"


# -- whole scripts


def static_lines(objects: PolicySet, keys: Keys) -> Iterator[str]:
    """The commands that rebuild a store."""
    yield "ipsec static"
    if objects.store != "local":
        yield f"set store location={objects.store}"
    for filter_list in objects.filter_lists:
        yield from _filter_list(filter_list)
    for filter_action in objects.filter_actions:
        yield _filter_action(filter_action)
    # The assigned policy last: nothing is in force before everything is there.
    for policy in objects.policies:
        yield from _policy(policy, keys)


def script(lines: Iterable[str], keys: Keys) -> str:
    """The whole text: header, blanks for keys, commands."""
    commands = list(lines)
    head = [HEADER]
    if keys.blanks:
        head.append(
            "# Keys are left out. Fill in these lines, double quotes in a key doubled, and take the mark"
        )
        head.append("# at their beginning away; before that the script does not run.")
        for number, where in enumerate(keys.blanks, start=1):
            head += [f"# {where}:", f"# set PSK_{number}="]
    return "\n".join([*head, *commands]) + "\n"


def dump_policies(objects: PolicySet, *, with_secrets: bool) -> str:
    """The script that rebuilds the store. CallerError NOT_EXPRESSIBLE names what it cannot say."""
    keys = Keys(shown=with_secrets)
    return script(list(static_lines(objects, keys)), keys)


def is_dump(text: str) -> bool:
    """Whether the text is a script of `dump`."""
    return text.removeprefix("\ufeff").lstrip().startswith(HEADER)


def refuse_blanks(text: str) -> None:
    """CallerError SYNTAX where a key is not filled in."""
    filled = {match[1].upper() for match in _FILLED.finditer(text)}
    missing = sorted({match[1] for match in _BLANK.finditer(text)} - filled)
    if missing:
        raise error_for(
            ReasonCode.SYNTAX,
            f"the script was written without its keys, and {', '.join(missing[:10])} are not filled in",
            expected=f"set {missing[0]}=… in place of the comment at its beginning",
        )

"""`netsh ipsec dynamic set config` and `show config`: the settings of the service. Kept over restarts.

Values are kept as text under the property's name. A property that is not set has its default; what Windows
has no word for is marked as ours."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.netsh.contract import JsonValue, Settings
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.registry_settings import KEYS, find_settings, property_of
from stockade.netsh.session import Outcome, Session
from stockade.netsh.show import columns
from stockade.netsh.values import FILE_NAME, Kind, number
from stockade.netsh.words import nearest, quoted, syntax_error
from stockade.policy.boot import BootMode, parse_exemptions
from stockade.policy.simple import SIMPLE_POLICY_SETTING

DYNAMIC = ("ipsec", "dynamic")


def _number(least: int, most: int) -> Callable[[str], str]:
    kind = number(least, most)
    return lambda text: str(kind.parse(text))


def _boot_mode(text: str) -> str:
    try:
        return BootMode(text.strip().casefold()).value
    except ValueError:
        raise ValueError("it is none of stateful, block, permit") from None


def _boot_exemptions(text: str) -> str:
    try:
        return " ".join(map(str, parse_exemptions(text))).lower() or "none"
    except StockadeError as error:
        raise ValueError(error.reason.detail) from None


@dataclass(frozen=True, slots=True)
class Property:
    """One setting. `read` gives the text that is kept, or ValueError; `label` is that of `show config`."""

    name: str
    label: str
    values: str
    default: str
    help: str
    read: Callable[[str], str]
    ours: bool = False


PROPERTIES = (
    Property(
        "ipsecdiagnostics",
        "IPSecDiagnostics",
        "0-7",
        "7",
        "refused packets that the journal names one by one: 1 that no SA opens, 2 inbound, 4 outbound ones;"
        " the others are summed up (Windows' default is 0)",
        _number(0, 7),
    ),
    Property("ikelogging", "IKElogging", "0|1", "0", "log of the key exchange", _number(0, 1)),
    Property(
        "strongcrlcheck",
        "StrongCRLCheck",
        "0|1|2",
        "1",
        "0 no look at revocation lists, 1 a revoked certificate fails, 2 any problem with a list fails",
        _number(0, 2),
    ),
    Property(
        "ipsecloginterval",
        "IPSecloginterval",
        "60-86400",
        "3600",
        "seconds between two sums of refused packets",
        _number(60, 86_400),
    ),
    Property(
        "ipsecexempt",
        "IPSecexempt",
        "0|1|2|3",
        "3",
        "traffic that filters do not touch, besides IKE: 0 Kerberos, RSVP, multicast, broadcast;"
        " 1 multicast, broadcast; 2 Kerberos, RSVP; 3 nothing",
        _number(0, 3),
    ),
    Property(
        "bootmode",
        "Boot Mode",
        "stateful|block|permit",
        "stateful",
        "what passes while the computer starts, before the policy is in force",
        _boot_mode,
    ),
    Property(
        "bootexemptions",
        "Boot Mode Exemptions",
        'none|"<protocol>:<src port>:<dst port>:inbound|outbound …"',
        "none",
        "what passes then in the modes stateful and block",
        _boot_exemptions,
    ),
    Property(
        "nlbsidle",
        "NlbsIdle",
        "0|1",
        "0",
        "1: fast failover towards clusters, as Windows 2003 asks for beside NlbsIdleTime",
        _number(0, 1),
        ours=True,
    ),
    Property(
        "nlbsflags",
        "NLBSFlags",
        "0|1",
        "0",
        "1: say that this computer is a node of a cluster (NLBS_PRESENT)",
        _number(0, 1),
        ours=True,
    ),
    Property(
        "assumeudpencapsulationcontextonsendrule",
        "AssumeUDPEncapsulation",
        "0|1|2",
        "0",
        "SAs where the end that answers is behind a NAT: 0 none, 1 where the one that begins is not,"
        " 2 also where both are (AssumeUDPEncapsulationContextOnSendRule of KB 885407)",
        _number(0, 2),
        ours=True,
    ),
    Property(
        "deadpeertime",
        "DeadPeerTime",
        "0|5-3600",
        "0",
        "seconds within which a dead peer is noticed; 0: 20 where it can be asked, else as Windows does",
        lambda text: "0" if text.strip() == "0" else _number(5, 3600)(text),
        ours=True,
    ),
    Property(
        "nlbsidletime",
        "NlbsIdleTime",
        "0|5-60",
        "0",
        "seconds until an idle quick mode with a cluster is given up; 0: as without fast failover",
        lambda text: "0" if text.strip() == "0" else _number(5, 60)(text),
        ours=True,
    ),
    Property(
        "nlbsqmretransmitduration",
        "NlbsQMRetransmitDuration",
        "3-60",
        "3",
        "seconds that a cluster has to answer a quick mode before main mode begins anew",
        _number(3, 60),
        ours=True,
    ),
    Property(
        SIMPLE_POLICY_SETTING,
        "SimplePolicyUpdate",
        "0|1",
        "0",
        "1: rules with soft fall back to clear after 500 ms without an answer; 0: after 3 s",
        _number(0, 1),
        ours=True,
    ),
)
_BY_NAME = {entry.name: entry for entry in PROPERTIES}


def _property(text: str) -> Property:
    name = text.strip().casefold()
    try:
        return _BY_NAME[property_of(text) or name] if "\\" in name else _BY_NAME[name]
    except KeyError:
        raise ValueError("it is no property") from None


PROPERTY = Parameter(
    "property",
    Kind("<property>", f"one of {', '.join(_BY_NAME)}", _property, tuple(_BY_NAME)),
    "the setting to change",
    required=True,
)
CONFIG_FILE = Parameter("file", FILE_NAME, "name of the .reg file", required=True)
VALUE = Parameter(
    "value", Kind("<value>", "a value of the property", lambda text: text), "its new value", required=True
)


def setting(settings: Settings, name: str) -> str:
    """The value of a property; its default where it is not set or what is kept does not fit."""
    entry = _BY_NAME[name]
    kept = settings.get_setting(name)
    if kept is None:
        return entry.default
    try:
        return entry.read(kept)
    except ValueError:
        raise error_for(
            ReasonCode.STORE_UNREADABLE, f"setting {name} is not {entry.values}", setting=name
        ) from None


def set_config(session: Session, arguments: Arguments) -> Outcome:
    entry, text = arguments[PROPERTY], arguments[VALUE]
    try:
        value = entry.read(text)
    except ValueError as error:
        words = tuple(entry.values.split("|"))
        raise syntax_error(
            f"{entry.name}: {error}",
            word=text,
            expected=entry.values,
            candidates=[nearest(text, words) or ""],
        ) from None
    session.settings.put_setting(entry.name, value)
    return Outcome()


def import_config(session: Session, arguments: Arguments) -> Outcome:
    """All of a file or nothing: every value is judged before the first is kept."""
    name = arguments[CONFIG_FILE]
    numbers = session.files.registry_numbers(session.files.read(name), name)
    if numbers is None:
        raise error_for(ReasonCode.INVALID_FILE, "a .reg file of Windows' regedit expected", file=name)
    found = find_settings(numbers, name)
    if not found.values:
        names = ", ".join(entry.label for entry in PROPERTIES if entry.name in KEYS)
        raise error_for(ReasonCode.INVALID_FILE, f"it has none of {names}", file=name)
    values: dict[str, str] = {}
    for key, value in found.values.items():
        entry = _BY_NAME[key]
        try:
            values[key] = entry.read(str(value))
        except ValueError as error:
            raise error_for(
                ReasonCode.INVALID_FILE, f"{entry.label} {value}: {error}; nothing was taken",
                expected=entry.values, file=name,
            ) from None  # fmt: skip
    for key, text in values.items():
        session.settings.put_setting(key, text)
    lines = [f"{_BY_NAME[key].label} = {text}" for key, text in values.items()]
    if found.passed_over:
        lines.append(f"{len(found.passed_over)} other values of the file were passed over.")
    data: dict[str, JsonValue] = {"settings": dict(values), "passed_over": list(found.passed_over)}
    return Outcome("\n".join(lines), data)


def config_data(settings: Settings) -> dict[str, JsonValue]:
    """All properties with their values as text; the boot exemptions as a list."""
    data: dict[str, JsonValue] = {entry.name: setting(settings, entry.name) for entry in PROPERTIES}
    kept = setting(settings, "bootexemptions")
    data["bootexemptions"] = [] if kept == "none" else list(kept.split())
    return data


def config_lines(settings: Settings) -> list[str]:
    lines = ["IPSec Configuration Parameters", "-" * 30]
    for entry in PROPERTIES:
        if entry.name == "bootexemptions":
            continue
        value = setting(settings, entry.name)
        lines.append(f"{entry.label:<25}: {value.capitalize() if entry.name == 'bootmode' else value}")
    lines.append("Boot Mode Exemptions     :")
    rows = []
    for exemption in parse_exemptions(setting(settings, "bootexemptions")):
        protocol, source, destination, direction = str(exemption).split(":")
        rows.append((protocol.upper(), source, destination, direction.capitalize()))
    return lines + (columns(("Protocol", "Src Port", "Dst Port", "Direction"), rows) if rows else ["NONE"])


def show_config(session: Session, arguments: Arguments) -> Outcome:
    settings = session.settings
    return Outcome("\n".join(config_lines(settings)), {"config": config_data(settings)})


def config_commands(settings: Settings) -> Iterator[str]:
    """The commands that bring the settings back which are set."""
    for entry in PROPERTIES:
        if settings.get_setting(entry.name) is not None:
            yield f"set config property={entry.name} value={quoted(setting(settings, entry.name))}"


def _property_help() -> str:
    rows = [
        f"  {entry.name:<{max(map(len, _BY_NAME))}}  {entry.values} (default {entry.default}): {entry.help}"
        + (" (ours)" if entry.ours else "")
        for entry in PROPERTIES
    ]
    return "\n".join(
        ["Properties:", *rows, "The agent takes a change over at once; boot settings act at its next start."]
    )


COMMANDS = (
    Command(
        DYNAMIC,
        ("set", "config"),
        "Changes a setting of the service; it stays over restarts.",
        (PROPERTY, VALUE),
        set_config,
        _property_help(),
        "set config property=ipsecexempt value=3",
    ),
    Command(
        DYNAMIC,
        ("importconfig",),
        "Takes the settings of fast failover (KB 980915) from a .reg file of Windows.",
        (CONFIG_FILE,),
        import_config,
        "NlbsIdle, NlbsIdleTime, NlbsQMRetransmitDuration and NLBSFlags, from the keys below Services where "
        "Windows has them. One value out of its range refuses the whole file. `set config property=` takes "
        "such a value by its whole name too.",
        "importconfig file=hotfix.reg",
        ours=True,
    ),
    Command(
        DYNAMIC, ("show", "config"), "Shows the settings of the service.", (), show_config, changes=False
    ),
)

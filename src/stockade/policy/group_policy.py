"""Which domain policy applies to a computer ([MS-GPOL] §3.2.5.1, [MS-GPIPSEC] §3.2). Pure: facts of the
directory in, a verdict for every group policy object out.

    site ─▶ domain ─▶ OU ─▶ OU of the computer          each overrides those before it
             └ links, in link order: number 1 overrides the others of its container
    enforced links come after all of these, the container nearest to the root last of all

A container that blocks inheritance keeps out what comes from above it, except enforced links. Of the
objects that remain, the strongest one with an assigned IPsec policy wins; nothing is merged. Every object
that was looked at says why it counts or does not.

Left out: loopback processing (users' settings only) and WMI filters. An object with a WMI filter does not
count, for its question is put to Windows."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

MAXIMUM_LINKS = 10_000


@dataclass(frozen=True, slots=True)
class GpoLink:
    """One link of a container. `gpo`: DN of the object."""

    gpo: str
    disabled: bool = False
    enforced: bool = False


class ContainerKind(StrEnum):
    SITE = "site"
    DOMAIN = "domain"
    UNIT = "organizational unit"


@dataclass(frozen=True, slots=True)
class Container:
    """A place with links. `links`: in link order, number 1 (the strongest) first."""

    dn: str
    kind: ContainerKind
    links: tuple[GpoLink, ...] = ()
    blocks_inheritance: bool = False


@dataclass(frozen=True, slots=True)
class GroupPolicyObject:
    """What is known of one object. `readable`: whether the directory shows it to us at all. `permitted`:
    whether its access list lets the computer read and apply it; `why_not_permitted` names the entry.
    `pointer`: DN of the assigned IPsec policy, empty where none is."""

    dn: str
    name: str = ""
    guid: UUID | None = None
    readable: bool = True
    computer_disabled: bool = False
    supported: bool = True  # functionality version 2
    permitted: bool = True
    why_not_permitted: str = ""
    wmi_filter: str = ""
    has_extension: bool = True
    pointer: str = ""
    pointer_name: str = ""


class Standing(StrEnum):
    """Why an object counts or does not."""

    WINNER = "applied"
    OVERRIDDEN = "overridden"
    NO_IPSEC_POLICY = "no IPsec policy"
    LINK_DISABLED = "link disabled"
    BLOCKED = "inheritance blocked"
    NOT_READABLE = "not readable"
    COMPUTER_DISABLED = "computer settings disabled"
    UNSUPPORTED = "unsupported version"
    FILTERED = "security filtering"
    WMI_FILTER = "WMI filter"
    NO_EXTENSION = "extension not listed"


@dataclass(frozen=True, slots=True)
class Considered:
    """One link, judged. `order`: link order in its container, from 1. `precedence`: 1 is the strongest of
    those that could apply; 0 where it cannot."""

    gpo: GroupPolicyObject
    container: Container
    order: int
    enforced: bool
    standing: Standing
    why: str
    precedence: int = 0


@dataclass(frozen=True, slots=True)
class Resultant:
    """All links, strongest first, and the one whose policy applies; None: the local policy does."""

    considered: tuple[Considered, ...]

    @property
    def winner(self) -> Considered | None:
        return next((one for one in self.considered if one.standing is Standing.WINNER), None)


def resultant(containers: tuple[Container, ...], objects: tuple[GroupPolicyObject, ...]) -> Resultant:
    """`containers`: from the weakest (site, domain) to the computer's own OU. Objects that are linked and
    not among `objects` count as not readable."""
    known = {normal_dn(one.dn): one for one in objects}
    ranked = _strongest_first(containers)
    judged: list[Considered] = []
    winner: Considered | None = None
    precedence = 0
    for container, order, link, blocked_by in ranked:
        gpo = known.get(normal_dn(link.gpo)) or GroupPolicyObject(link.gpo, readable=False)
        standing, why = _judge(gpo, link, blocked_by)
        if standing is Standing.WINNER:
            precedence += 1
            if winner is not None:
                standing = Standing.OVERRIDDEN
                why = f"“{winner.gpo.name or winner.gpo.dn}” is stronger: {_where(winner)}"
        entry = Considered(
            gpo, container, order, link.enforced, standing, why,
            precedence if standing in (Standing.WINNER, Standing.OVERRIDDEN) else 0,
        )  # fmt: skip
        if standing is Standing.WINNER:
            winner = entry
        judged.append(entry)
    return Resultant(tuple(judged))


def _where(one: Considered) -> str:
    enforced = "enforced, " if one.enforced else ""
    return f"{enforced}linked to the {one.container.kind} {one.container.dn}, link order {one.order}"


def _strongest_first(
    containers: tuple[Container, ...],
) -> list[tuple[Container, int, GpoLink, Container | None]]:
    """Every link with its container, its order there and who keeps it out."""
    enforced, usual = [], []
    for place, container in enumerate(containers):
        # A site is not above the domain in the tree, but blocked like what is.
        blocker = next((below for below in containers[place + 1 :] if below.blocks_inheritance), None)
        for order, link in enumerate(container.links, 1):
            if link.enforced:
                enforced.append((container, order, link, None))
            else:
                usual.append((place, order, (container, order, link, blocker)))
    # enforced: containers from the weakest, as they stand; the others: from the strongest
    usual.sort(key=lambda entry: (-entry[0], entry[1]))
    return [*enforced, *(entry for _, _, entry in usual)]


def _judge(gpo: GroupPolicyObject, link: GpoLink, blocked_by: Container | None) -> tuple[Standing, str]:
    """The first thing that keeps it out; WINNER where nothing does."""
    if link.disabled:
        return Standing.LINK_DISABLED, "the link is disabled"
    if blocked_by is not None:
        return Standing.BLOCKED, f"the {blocked_by.kind} {blocked_by.dn} blocks inheritance"
    if not gpo.readable:
        return Standing.NOT_READABLE, "the object is not there, or not shown to this computer"
    if gpo.computer_disabled:
        return Standing.COMPUTER_DISABLED, "its computer settings are disabled"
    if not gpo.supported:
        return Standing.UNSUPPORTED, "its functionality version is not 2"
    if not gpo.permitted:
        return (
            Standing.FILTERED,
            gpo.why_not_permitted or "its access list does not let the computer apply it",
        )
    if gpo.wmi_filter:
        return Standing.WMI_FILTER, "it has a WMI filter, which only Windows can answer"
    if not gpo.pointer:
        return Standing.NO_IPSEC_POLICY, "no IPsec policy is assigned in it"
    if not gpo.has_extension:
        return Standing.NO_EXTENSION, "an IPsec policy is in it, but the IPsec extension is not in its list"
    return Standing.WINNER, "the strongest object with an assigned IPsec policy"


def normal_dn(dn: str) -> str:
    """A DN as it is compared: small letters, no blanks around commas and equal signs."""
    parts = (part.strip() for part in dn.casefold().split(","))
    return ",".join("=".join(word.strip() for word in part.split("=", 1)) for part in parts)


def parse_links(text: str) -> tuple[GpoLink, ...]:
    """gPLink, `[LDAP://DN;flags][LDAP://DN;flags]…` ([MS-GPOL] §2.2.2), with the last of the text, which is
    the strongest, as link order 1. ValueError where it is not that."""
    links = []
    position = 0
    text = text.strip()
    while position < len(text):
        end = text.find("]", position)
        body = text[position + 1 : end]
        target, semicolon, flags = body.rpartition(";")
        if text[position] != "[" or end < 0 or not semicolon or not flags.strip().isdecimal():
            raise ValueError("gPLink is not a row of [LDAP://DN;number]")
        if target[:7].casefold() != "ldap://":
            raise ValueError("a link of gPLink does not begin with LDAP://")
        number = int(flags)
        links.append(GpoLink(target[7:].strip(), bool(number & 1), bool(number & 2)))
        if len(links) > MAXIMUM_LINKS:
            raise ValueError(f"more than {MAXIMUM_LINKS} links")
        position = end + 1
        while position < len(text) and text[position].isspace():
            position += 1
    return tuple(reversed(links))


def place_in_tree(dn: str, domain: str) -> tuple[str, ...]:
    """The DNs from the domain down to the parent of `dn`, which are those that can have links. ValueError
    where `dn` is not in the domain."""
    parts = split_dn(dn)
    root = split_dn(domain)
    if [normal_dn(part) for part in parts[-len(root) :]] != [normal_dn(part) for part in root]:
        raise ValueError(f"{dn} is not in the domain {domain}")
    return tuple(",".join(parts[start:]) for start in range(len(parts) - len(root), 0, -1))


def split_dn(dn: str) -> list[str]:
    r"""The parts of a DN; a comma after a backslash parts nothing (RFC 4514)."""
    parts, current, escaped = [], "", False
    for sign in dn:
        if sign == "," and not escaped:
            parts.append(current.strip())
            current = ""
        else:
            current += sign
        escaped = sign == "\\" and not escaped
    return [*parts, current.strip()]

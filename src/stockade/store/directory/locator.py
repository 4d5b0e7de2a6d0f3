"""Domain controllers by DNS ([MS-ADTS] §6.3.2, RFC 2782): those of our site first, then all.

    _ldap._tcp.SITE._sites.dc._msdcs.DOMAIN
    _ldap._tcp.dc._msdcs.DOMAIN

Priority orders them, weight draws lots among equals. The names come from DNS, which nobody has signed: who
answers there has to prove by Kerberos or a certificate that it is what it is called."""

import random
import re
from collections.abc import Sequence

from stockade.model.reasons import ReasonCode, error_for

LIFETIME = 6.0
"""Seconds for one question, with all its servers."""
MAXIMUM_CONTROLLERS = 32
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?")

Service = tuple[int, int, str]
"""Priority, weight, host name."""


def locate(
    domain: str, site: str = "", *, servers: Sequence[str] = (), chance: random.Random | None = None
) -> list[str]:
    """Host names, in the order in which they should be asked. `servers`: DNS servers in place of the
    system's. HostError DIRECTORY_UNREACHABLE where DNS gives none."""
    names = [f"_ldap._tcp.dc._msdcs.{domain}"]
    if site and all(_LABEL.fullmatch(label) for label in site.split(".")):
        names.insert(0, f"_ldap._tcp.{site}._sites.dc._msdcs.{domain}")
    found: dict[str, None] = {}
    trouble = ""
    for name in names:
        services, why = _ask(name, servers)
        trouble = why or trouble
        for host in in_order(services, chance or random.Random()):
            found.setdefault(host)
    if not found:
        raise error_for(
            ReasonCode.DIRECTORY_UNREACHABLE, trouble or "DNS names no domain controller", name=names[-1]
        )
    return list(found)[:MAXIMUM_CONTROLLERS]


def in_order(services: Sequence[Service], chance: random.Random) -> list[str]:
    """RFC 2782: the lowest priority first; among equals by weighted lots."""
    ordered = []
    for priority in sorted({one[0] for one in services}):
        left = [one for one in services if one[0] == priority]
        while left:
            weights = [one[1] for one in left]
            one = chance.choices(left, weights if any(weights) else None)[0]
            left.remove(one)
            ordered.append(one[2])
    return ordered


def _ask(name: str, servers: Sequence[str]) -> tuple[list[Service], str]:
    """The services, or none and why."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        return [], "the Python package dnspython is not installed (pip install 'stockade[directory]')"
    try:
        resolver = dns.resolver.Resolver(configure=not servers)
        if servers:
            resolver.nameservers = list(servers)
        answer = resolver.resolve(name, "SRV", lifetime=LIFETIME)
    except dns.exception.DNSException as error:
        return [], f"{type(error).__name__}: {error}"[:200]
    found = []
    for record in answer:
        host = str(record.target).removesuffix(".")
        if host and all(_LABEL.fullmatch(label) for label in host.split(".")):
            found.append((int(record.priority), int(record.weight), host))
    return found[:MAXIMUM_CONTROLLERS], ""

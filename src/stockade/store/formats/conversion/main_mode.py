"""Main-mode settings: `IsakmpData` ⇄ what a `Policy` has of them ([MS-GPIPSEC] §2.2.1.2).

A blob has lifetime, limit and perfect forward secrecy per method and once more for all; a `Policy` has one of
each. The shorter, smaller, stricter one is taken."""

from dataclasses import dataclass

from stockade.model.reasons import ReasonCode
from stockade.model.suites import MainModeProposal
from stockade.policy.objects import Policy
from stockade.store.formats import numbers
from stockade.store.formats.ipsec_data.isakmp import (
    OPTION_MAP_CERTIFICATE,
    OPTION_SEND_NO_CERTIFICATE_REQUEST,
    IsakmpData,
    SecurityMethod,
)
from stockade.store.formats.problems import Problems

DEFAULT_SECONDS = 28_800
_LARGEST = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class MainModeSettings:
    """As a `Policy` has them, and whether certificates must map to an account."""

    methods: tuple[MainModeProposal, ...]
    minutes: int
    quick_modes: int
    master_pfs: bool
    map_certificates: bool


def read_main_mode(data: IsakmpData, where: str, problems: Problems) -> MainModeSettings | None:
    """The settings, or None (with a loss) where no method can be used."""
    methods: list[MainModeProposal] = []
    seconds: list[int] = []
    limits = [data.quick_mode_limit]
    master_pfs = data.master_pfs != 0
    for number in data.new_groups:
        if number == 0:
            break
        offer = numbers.NEW_GROUP_OFFERS.get(number)
        if offer is None:
            problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"extra offer {number} is not known", where)
            continue
        methods.append(offer)
        seconds.append(data.lifetime_seconds or DEFAULT_SECONDS)
    for position, method in enumerate(data.methods, 1):
        proposal = _proposal(method)
        if proposal is None:
            problems.loss(
                ReasonCode.NOT_EXPRESSIBLE,
                f"main-mode method {position} is not known (cipher {method.algorithm}, hash {method.hash}, "
                f"group {method.group:#x}, random function {method.random_function})",
                where,
            )
            continue
        methods.append(proposal)
        if method.random_function:
            seconds.append(data.lifetime_seconds or DEFAULT_SECONDS)
        else:
            seconds.append(method.lifetime_seconds or DEFAULT_SECONDS)
            limits.append(method.quick_mode_limit)
            # 0xCDCDCDCD stands there in blobs of Windows 2000
            master_pfs = master_pfs or method.identity_pfs == 1
        if method.lifetime_kilobytes and not method.random_function:
            problems.note(f"method {position}: a main-mode lifetime in kilobytes is not kept", where)
    if not methods:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, "it has no main-mode method that is known here", where)
        return None
    shortest = min(seconds)
    if max(seconds) != shortest:
        problems.note(f"its methods have different lifetimes; the shortest, {shortest} s, is taken", where)
    if shortest % 60:
        problems.note(f"its lifetime of {shortest} s becomes {max(shortest // 60, 1)} min", where)
    if data.options & OPTION_SEND_NO_CERTIFICATE_REQUEST:
        problems.note("that no certificate request is sent is not kept", where)
    limit = min((entry for entry in limits if entry), default=0)
    return MainModeSettings(
        tuple(methods),
        max(shortest // 60, 1),
        1 if master_pfs else limit,
        master_pfs,
        bool(data.options & OPTION_MAP_CERTIFICATE),
    )


def _proposal(method: SecurityMethod) -> MainModeProposal | None:
    if method.random_function:
        return numbers.NEW_GROUP_OFFERS.get(method.random_function)
    cipher = numbers.MAIN_MODE_CIPHERS.get(method.algorithm)
    hash_ = numbers.HASHES.get(method.hash)
    group = numbers.GROUPS.get(method.group)
    return MainModeProposal(cipher, hash_, group) if cipher and hash_ and group else None


def write_main_mode(policy: Policy, where: str, problems: Problems) -> IsakmpData:
    """The settings as a blob; methods that it cannot hold are losses."""
    seconds = min(policy.main_mode_minutes * 60, _LARGEST)
    limit = min(policy.quick_modes_per_main_mode, _LARGEST)
    methods = []
    for method in policy.main_mode_methods:
        cipher = numbers.MAIN_MODE_CIPHER_NUMBERS.get(method.encryption)
        hash_ = numbers.HASH_NUMBERS.get(method.hash)
        group = numbers.GROUP_NUMBERS.get(method.group)
        if cipher is None or hash_ is None or group is None:
            problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"main-mode method {method}", where)
            continue
        methods.append(
            SecurityMethod(cipher, hash_, group, seconds, limit, identity_pfs=int(policy.master_pfs))
        )
    return IsakmpData(tuple(methods), int(policy.master_pfs), limit, seconds)

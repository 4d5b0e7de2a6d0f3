"""What the kernel of this host can do for IPsec, asked by trying it.

An SA between two addresses that no packet ever has (RFC 5737, RFC 3849) is added and taken away again. Some
kernels take XFRM policies and refuse every SA ("Function not implemented"): only trying tells."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.kernel.policies import MODES
from stockade.driver.kernel.states import encryption_of, integrity_of
from stockade.driver.limits import registered_kernel_capabilities, software_capabilities
from stockade.driver.netlink import NetlinkError, NetlinkSocket
from stockade.model.capabilities import Capabilities
from stockade.model.negotiation import Mode
from stockade.model.reasons import StockadeError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash
from stockade.model.traffic import AH, ESP
from stockade.wire.netlink import NLM_F_CREATE, NLM_F_EXCL
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT
from stockade.wire.xfrm import (
    LEGACY_WINDOW,
    Algorithm,
    Encapsulation,
    Limits,
    MessageType,
    State,
    StateFlag,
    XfrmMode,
    state_id,
)

_ENDS: Final = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
_LAST_RESERVED_SPI: Final = 255
_SECONDS: Final = 5
"""After which a trial SA ends by itself, should we die in between."""

_MEANINGS: Final = {
    errno.ENOSYS: "this kernel has no ESP",
    errno.EPROTONOSUPPORT: "this kernel has no such protocol (modules esp4, esp6, ah4, ah6)",
    errno.EPERM: "not privileged (needs CAP_NET_ADMIN)",
    errno.EACCES: "not privileged (needs CAP_NET_ADMIN)",
    errno.ENOENT: "this kernel has no such algorithm",
}


@contextmanager
def xfrm_socket() -> Iterator[NetlinkSocket]:
    """A netlink socket for XFRM, for as long as the block runs."""
    netlink = NetlinkSocket(socket.NETLINK_XFRM)
    try:
        yield netlink
    finally:
        netlink.close()


def esp_refusal(version: int = 4) -> str | None:
    """Why this kernel cannot hold ESP SAs, in words; None if it can."""
    try:
        with xfrm_socket() as netlink:
            return refusal_of(netlink, esp_trial(Encryption.AES_CBC_128, Hash.SHA1, version))
    except OSError as error:
        return f"no XFRM netlink: {error.strerror}"
    except StockadeError as error:
        return error.reason.detail or str(error.reason)


def refusal_of(netlink: NetlinkSocket, state: State) -> str | None:
    """Add the state and take it away again: why the kernel does not have it, or None."""
    try:
        netlink.change(MessageType.NEW_SA, state.encode(), NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        meaning = _MEANINGS.get(error.number, "the kernel refused an SA")
        return f"{meaning}: {os.strerror(error.number)} (errno {error.number})"
    with suppress(NetlinkError):
        netlink.change(MessageType.DELETE_SA, state_id(state.destination, state.spi, state.protocol))
    return None


def kernel_capabilities() -> Capabilities:
    """What this kernel takes, algorithm by algorithm. Nothing at all where ESP is missing. Errors:
    `HostError` (NOT_PRIVILEGED, DRIVER_FAILED)."""
    with xfrm_socket() as netlink:

        def takes(state: State) -> bool:
            return refusal_of(netlink, state) is None

        versions = frozenset(
            version for version in (4, 6) if takes(esp_trial(Encryption.AES_CBC_128, Hash.SHA1, version))
        )
        has_esp = 4 in versions
        return Capabilities(
            name="kernel",
            modes=frozenset(
                mode
                for mode in Mode
                if has_esp and takes(replace(esp_trial(Encryption.AES_CBC_128, Hash.SHA1), mode=MODES[mode]))
            ),
            encryptions=frozenset(
                entry
                for entry in Encryption
                if has_esp and takes(esp_trial(entry, None if entry.is_aead else Hash.SHA1))
            ),
            integrities=frozenset(
                entry for entry in Hash if has_esp and takes(esp_trial(Encryption.NULL, entry))
            ),
            authentication_header=has_esp and takes(_trial(AH, 4, None, _integrity(Hash.SHA1))),
            ip_versions=versions,
            udp_versions=frozenset(
                version
                for version in versions
                if takes(
                    replace(
                        esp_trial(Encryption.AES_CBC_128, Hash.SHA1, version),
                        encapsulation=Encapsulation(NAT_TRAVERSAL_PORT, NAT_TRAVERSAL_PORT),
                    )
                )
            ),
            protocol_choice=False,  # a policy's template names its protocols
            extended_sequence=has_esp
            and takes(
                replace(
                    esp_trial(Encryption.AES_CBC_128, Hash.SHA1),
                    window=LEGACY_WINDOW,
                    flags=StateFlag.EXTENDED_SEQUENCE,
                )
            ),
        )


def capabilities_of(name: str) -> Capabilities:
    """What the data plane of this name can do, without starting it: `auto` as an agent here would choose.
    The kernel is asked, where it has ESP and we may ask; else the registry answers for it, since the
    question may be about another computer."""
    has_esp = name in ("auto", "kernel") and esp_refusal() is None
    if name == "auto":
        name = "kernel" if has_esp else "userspace"
    if name == "kernel":
        return kernel_capabilities() if has_esp else registered_kernel_capabilities()
    return software_capabilities(name)


def esp_trial(encryption: Encryption, integrity: Hash | None, version: int = 4) -> State:
    key = Secret(os.urandom(encryption_algorithm(encryption).keymat_size))
    return _trial(ESP, version, encryption_of(encryption, key), _integrity(integrity) if integrity else None)


def _integrity(integrity: Hash) -> Algorithm:
    return integrity_of(integrity, Secret(os.urandom(hash_algorithm(integrity).integrity_key_size)))


def _trial(protocol: int, version: int, encryption: Algorithm | None, integrity: Algorithm | None) -> State:
    source, destination = _ENDS[version]
    return State(
        selector=None,
        source=ip_address(source),
        destination=ip_address(destination),
        spi=int.from_bytes(os.urandom(4), "big") | _LAST_RESERVED_SPI + 1,
        protocol=protocol,
        request_id=0,
        mode=XfrmMode.TRANSPORT,
        limits=Limits(hard_seconds=_SECONDS),
        encryption=encryption,
        integrity=integrity,
    )

"""IKE, ESP and keepalives on one UDP port (RFC 3948 §2): what a datagram on port 4500 is.

     ESP:        | SPI (4, not zero) | sequence number … |
     IKE:        | 0 0 0 0 | ISAKMP header … |      the non-ESP marker
     keepalive:  | FF |

On port 500 there is neither marker nor ESP.
"""

from enum import StrEnum
from typing import Final

from stockade.model.reasons import ReasonCode, error_for
from stockade.wire.esp import ESP_HEADER_SIZE

IKE_PORT = 500
NAT_TRAVERSAL_PORT = 4500
ESP_DOOR: Final = 3
"""Port 4500 over IPv4 is a group of sockets (SO_REUSEPORT), and the filter of the first says which of them a
datagram goes to: those before this one are the key exchange's, this one is for ESP. Where there is none they
drop ESP."""
NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"


class DatagramKind(StrEnum):
    IKE = "ike"
    ESP = "esp"
    KEEPALIVE = "keepalive"


def classify(datagram: bytes) -> DatagramKind:
    """What a datagram on port 4500 carries. `PeerError` MALFORMED_PACKET for one too short to be any of the
    three (RFC 3948 §2: discarded)."""
    if datagram == KEEPALIVE:
        return DatagramKind.KEEPALIVE
    if len(datagram) <= len(NON_ESP_MARKER):
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"UDP encapsulation: {len(datagram)} bytes are neither IKE, nor ESP, nor a keepalive",
            offset=0,
        )
    if datagram[:4] == NON_ESP_MARKER:
        return DatagramKind.IKE
    if len(datagram) < ESP_HEADER_SIZE:
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"UDP encapsulation: {ESP_HEADER_SIZE} bytes expected for ESP, {len(datagram)} left",
            offset=0,
        )
    return DatagramKind.ESP


def add_marker(message: bytes) -> bytes:
    """An IKE message as it goes to port 4500."""
    return NON_ESP_MARKER + message


def remove_marker(datagram: bytes) -> bytes:
    """The IKE message in a datagram from port 4500. `PeerError` MALFORMED_PACKET where it has no marker."""
    if classify(datagram) is not DatagramKind.IKE:
        raise error_for(ReasonCode.MALFORMED_PACKET, "UDP encapsulation: no non-ESP marker", offset=0)
    return datagram[len(NON_ESP_MARKER) :]

"""`ipsecdiagnostics` 0 to 7 on whole hosts, in virtual time: which refused packets the journal names, which
it sums up, and which ids of Windows they carry."""

from ipaddress import ip_address

import pytest
from core_harness import ALPHA, BETA, Host, World, me_to, policy_set, secure, udp

from stockade.agent.diagnostics import ERRORS, INBOUND, OUTBOUND
from stockade.agent.journal import Entry
from stockade.model.reasons import ReasonCode

INTERVAL = 60.0
CLASS = {
    ReasonCode.UNKNOWN_SPI: ERRORS,
    ReasonCode.INTEGRITY_FAILED: ERRORS,
    ReasonCode.REPLAYED: ERRORS,
    ReasonCode.CLEAR_DROPPED: INBOUND,
    ReasonCode.QUEUE_FULL: OUTBOUND,
}
WINDOWS = {
    ReasonCode.UNKNOWN_SPI: [4965],
    ReasonCode.INTEGRITY_FAILED: [4960],
    ReasonCode.REPLAYED: [4961],
    ReasonCode.CLEAR_DROPPED: [4963],
    ReasonCode.QUEUE_FULL: [],
}
SILENT = ip_address("10.9.0.99")


def told(host: Host, kind: str) -> list[Entry]:
    return [one for one in host.journal if one.kind == kind]


@pytest.mark.parametrize("mask", range(8))
def test_each_bit_names_its_packets_and_the_others_are_summed_up(mask: int) -> None:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    core = alpha.start(policy_set((secure(), (me_to(BETA), me_to(SILENT)), {})))
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})))
    wire: list[bytes] = []
    alpha.driver._transmit = lambda packet: (wire.append(packet), world.carry(packet))  # what leaves alpha
    core.packet_log.set(7, INTERVAL, world.clock.now)
    assert beta.core is not None
    for host in (alpha, beta):
        assert host.core is not None
        host.core.packet_log.set(mask, INTERVAL, world.clock.now)
    alpha.send(BETA, b"hello")
    world.run(2)
    (sealed,) = [packet for packet in wire if packet[9] == 50]
    # after the IP header come SPI and sequence number (RFC 4303 §2)
    forged = sealed[:24] + (9).to_bytes(4, "big") + sealed[28:]
    strange = sealed[:20] + b"\x12\x34\x56\x78" + sealed[24:]
    for packet in (sealed, forged, strange, udp(ALPHA, BETA, b"clear")):
        beta.driver.inbound(packet, world.clock.now)
        world.settle()
    for _ in range(300):  # more than wait for one peer
        alpha.send(SILENT, b"nobody answers")
    world.run(3)
    named = {one.reason.code for host in (alpha, beta) for one in told(host, "packets-refused")}
    assert named == {code for code, bit in CLASS.items() if bit & mask}
    for one in (*told(alpha, "packets-refused"), *told(beta, "packets-refused")):
        assert one.as_dict()["windows_events"] == WINDOWS[one.reason.code]
    world.run(INTERVAL + 2)
    summed = {one.reason.code for host in (alpha, beta) for one in told(host, "packets-refused-summary")}
    assert summed == {code for code, bit in CLASS.items() if not bit & mask}

"""Scenarios of kernel_scenarios.py: what the kernel does with the SAs that the driver gave it."""

import itertools
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import ip_address

from kernel_drivers import (
    BEFORE_THE_WRAP,
    SUITES,
    know_the_neighbours,
    sas_of,
    secure,
    secure_both,
    set_numbers,
    table_of,
    two_drivers,
)
from kernel_world import ALPHA, ALPHA6, BETA, BETA6, World, ping, xfrm

from stockade.driver.contract import PeerMoved
from stockade.driver.datapath import Datapath
from stockade.driver.kernel.listener import bypass_socket, take_esp_in_udp
from stockade.driver.probe import kernel_capabilities
from stockade.model.filters import Direction
from stockade.model.sa import UdpEncapsulation
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import AH, ESP, ICMP, ICMPV6


def every_suite_carries_packets(world: World) -> None:
    """The keys, sizes and names of each suite are right: two kernels' ends agree, IPv4 and IPv6, all
    windows."""
    windows = itertools.cycle((32, 64, 1024, 4096))
    has = world.alpha.call(kernel_capabilities)
    # this kernel is built without ChaCha20; everything else is there, and tried
    assert set(Encryption) - has.encryptions <= {Encryption.CHACHA20_POLY1305}, has
    suites = [one for one in SUITES if one.esp is None or one.esp.encryption in has.encryptions]
    for proposal, window in zip(suites, windows, strict=False):
        ends, protocol = ((ALPHA, BETA), ICMP) if window != 64 else ((ALPHA6, BETA6), ICMPV6)
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(ends[0], ends[1], protocol, proposal))
            beta.install_filters(table_of(ends[1], ends[0], protocol, proposal))
            forth, _ = secure(alpha, beta, ends, protocol, proposal, replay_window=window)
            if protocol == ICMPV6:
                know_the_neighbours(world)
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, f"{proposal} window {window}"
                tally = wire.tally()
            assert tally.protected_clear == 0, (str(proposal), tally)
            carried = {row.spi: row.packets for row in beta.statistics().sas}
            assert carried[forth] == 2, (str(proposal), carried)
            text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
            assert f"replay-window {window}" in text or f"replay_window {window}" in text, text


def esp_in_udp_passes(world: World) -> None:
    """UDP encapsulation over the agent's own socket of port 4500, which still gets IKE; both families."""
    proposal = SUITES[6]
    for version, ends, protocol in ((4, (ALPHA, BETA), ICMP), (6, (ALPHA6, BETA6), ICMPV6)):
        with two_drivers(world) as (alpha, beta), ExitStack() as stack:
            alpha.install_filters(table_of(*ends, protocol, proposal))
            beta.install_filters(table_of(*reversed(ends), protocol, proposal))
            if version == 6:
                know_the_neighbours(world)
            sockets = []
            for driver, address in zip((alpha, beta), ends, strict=True):
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                sock = driver.namespace.call(lambda family=family: socket.socket(family, socket.SOCK_DGRAM))
                stack.callback(sock.close)
                driver.prepare_ike_socket(sock, 4500)
                sock.bind((address, 4500))
                sock.settimeout(3)
                sockets.append(sock)
            secure(alpha, beta, ends, protocol, proposal, udp=UdpEncapsulation(4500, 4500))
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, f"IPv{version}"
                assert wire.tally().protected_clear == 0, wire.tally()
            sockets[0].sendto(bytes(4) + b"IKE behind its marker", (ends[1], 4500))
            assert sockets[1].recv(100).endswith(b"IKE behind its marker")


def extended_sequence_numbers_pass_the_end_of_32_bits(world: World) -> None:
    """Both directions, ESP and AH; what the kernel sent is opened by the user-space path too."""
    for suite in (
        QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
        QuickModeProposal(EspSuite(Encryption.AES_CBC_256, Hash.SHA_256)),
        QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1)),
        QuickModeProposal(ah=Hash.SHA_256),
    ):
        proposal = replace(suite, extended_sequence=True)
        protocol = ESP if proposal.esp is not None else AH
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(ALPHA, BETA, ICMP, proposal))
            beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
            extended = {"extended_sequence": True, "replay_window": 64}
            secure(alpha, beta, (ALPHA, BETA), ICMP, proposal, **extended)
            to_beta = sas_of(ALPHA, BETA, ICMP, proposal, 0x1000, **extended)
            to_alpha = sas_of(BETA, ALPHA, ICMP, proposal, 0x1001, **extended)
            for driver, sa in zip((beta, alpha, alpha, beta), (*to_beta, *to_alpha), strict=True):
                set_numbers(driver, sa, BEFORE_THE_WRAP)
            sniffer = world.beta.call(
                lambda kind=protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, kind)
            )
            with sniffer:
                sniffer.setblocking(False)
                assert ping(world.alpha, BETA, 6) == 6, str(proposal)
                seen = []
                with suppress(BlockingIOError):
                    while True:
                        seen.append(sniffer.recv(2048))
            text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
            assert "esn" in text, text
            judge = Datapath()
            judge.install_filters(table_of(BETA, ALPHA, ICMP, proposal).filters, 0.0)
            judge.add_sa(to_beta[0], 0.0)
            (entry,) = judge._sad
            assert entry.window.accept(BEFORE_THE_WRAP)
            clear = judge.inbound(seen, 1.0)
            assert len(seen) == len(clear) == 6, (str(proposal), judge.statistics(1.0))
            assert entry.window.top == BEFORE_THE_WRAP + 6
            assert all(packet[9] == ICMP for packet in clear)
            if protocol == AH:  # 28 bytes in words of 32 bits, minus 2: without padding (RFC 4302 §2.2)
                assert {packet[21] for packet in seen} == {5}


def ah_around_esp_carries_packets(world: World) -> None:
    """Both of it in every packet, in both families; with one half missing nothing passes."""
    for proposal, (ends, protocol) in itertools.product(
        (
            QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA_256),
            QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None), Hash.SHA1),
            QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1), Hash.MD5),
        ),
        (((ALPHA, BETA), ICMP), ((ALPHA6, BETA6), ICMPV6)),
    ):
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(*ends, protocol, proposal))
            beta.install_filters(table_of(*reversed(ends), protocol, proposal))
            if protocol == ICMPV6:
                know_the_neighbours(world)
            halves = secure_both(alpha, beta, ends, protocol, proposal)
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, str(proposal)
                assert wire.tally().protected_clear == 0, wire.tally()
            carried = {row.spi: row.packets for row in beta.statistics().sas}
            assert [carried[spi] for spi in halves] == [2, 2, 2, 2], carried
            alpha.remove_sa(halves[1], Direction.OUTBOUND, ip_address(ends[1]))
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2, 1) == 0, "ESP without its AH"
                tally = wire.tally()
                assert (tally.protected_clear, tally.esp) == (0, 0), tally


def a_changed_mapping_is_followed(world: World) -> None:
    """alpha's NAT gives it another port: beta's kernel tells, and beta's packets go there."""
    proposal = SUITES[6]
    with two_drivers(world) as (alpha, beta):
        sockets = []
        for driver, address, port in ((alpha, ALPHA, 4500), (alpha, ALPHA, 4777), (beta, BETA, 4500)):
            sock = driver.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((address, port))
            driver.namespace.call(lambda sock=sock: bypass_socket(sock))
            take_esp_in_udp(sock)
            sockets.append(sock)
        beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, proposal))
        forth, back = 0x1000, 0x1001
        moved, known = UdpEncapsulation(4777, 4500), UdpEncapsulation(4500, 4500)
        to_beta = sas_of(ALPHA, BETA, ICMP, proposal, forth)
        to_alpha = sas_of(BETA, ALPHA, ICMP, proposal, back)
        beta.add_sa(replace(to_beta[0], udp=known))
        alpha.add_sa(replace(to_alpha[0], udp=UdpEncapsulation(4500, 4777)))
        beta.add_sa(replace(to_alpha[1], udp=known))
        alpha.add_sa(replace(to_beta[1], udp=moved))
        ping(world.alpha, BETA, 1, 1)
        event = beta.wait_for(PeerMoved, spi=forth)
        assert (str(event.peer), event.port) == (ALPHA, 4777)
        assert ping(world.alpha, BETA, 3) == 3
        listed = xfrm(world.beta, "state")
        assert sum("4777" in line for line in listed) == 2, listed
        for sock in sockets:
            sock.close()

"""Packets that come before their SA, and the end of many SAs."""

import socket
import subprocess
import time
from contextlib import ExitStack
from ipaddress import ip_address

from kernel_drivers import SUITES, know_the_neighbours, sas_of, table_of, two_drivers
from kernel_world import ALPHA, ALPHA6, BETA, BETA6, World, eventually, ping, xfrm

from stockade.driver.kernel.listener import bypass_socket, take_esp_in_udp
from stockade.model.filters import Direction
from stockade.model.sa import UdpEncapsulation
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import ICMP, ICMPV6

GCM, AH_ALONE = SUITES[6], QuickModeProposal(ah=Hash.SHA_256)
BOTH = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA_256), Hash.SHA_256)
IN_UDP = {"udp": UdpEncapsulation(4500, 4500)}
ONE, OTHER = ip_address(ALPHA), ip_address(BETA)


def packets_ahead_of_their_sa_wait_for_it(world: World) -> None:
    """beta told alpha an SPI and has no keys yet; alpha has all and sends. What comes early is not lost, in
    both families, in UDP, under AH and in a bundle; what never gets an SA is counted."""
    for ends, protocol, proposal, fields in (
        ((ALPHA, BETA), ICMP, GCM, {}),
        ((ALPHA6, BETA6), ICMPV6, GCM, {}),
        ((ALPHA, BETA), ICMP, GCM, IN_UDP),
        ((ALPHA, BETA), ICMP, AH_ALONE, {}),
        ((ALPHA, BETA), ICMP, BOTH, {}),
    ):
        _come_early(world, ends, protocol, proposal, fields)
    with two_drivers(world) as (alpha, beta):
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, GCM))
        spi = beta.get_spi(OTHER, ONE)
        for _ in range(2):
            beta.events()
        alpha.add_sa(sas_of(ALPHA, BETA, ICMP, GCM, spi)[1])
        assert ping(world.alpha, BETA, 1, 1) == 0
        other = beta.get_spi(OTHER, ONE)  # of another negotiation, which gets its SA
        beta.add_sa(sas_of(ALPHA, BETA, ICMP, GCM, other)[0])
        assert eventually(lambda: beta.events() or "unknown-spi" in dict(beta.statistics().refused), 10)
        beta.remove_sa(spi, Direction.INBOUND, ONE)


def _come_early(
    world: World, ends: tuple[str, str], protocol: int, proposal: QuickModeProposal, fields: dict[str, object]
) -> None:
    one, other = ends
    with ExitStack() as stack:
        alpha, beta = stack.enter_context(two_drivers(world))
        for host in (world.alpha, world.beta):
            sock = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            stack.enter_context(sock)
            host.call(lambda sock=sock: (bypass_socket(sock), take_esp_in_udp(sock)))
            sock.bind(("", 4500))
        alpha.install_filters(table_of(one, other, protocol, proposal))
        beta.install_filters(table_of(other, one, protocol, proposal))
        if protocol == ICMPV6:
            know_the_neighbours(world)
        told = [beta.get_spi(ip_address(other), ip_address(one))]
        halves = [proposal]
        if proposal is BOTH:
            told.append(beta.get_spi(ip_address(other), ip_address(one)))
            halves = [QuickModeProposal(proposal.esp), AH_ALONE]
        for _ in range(2):
            beta.events()  # in the second one the message that tells alpha has left
        late = []
        for number, (half, spi) in enumerate(zip(halves, told, strict=True)):
            forth, back = dict(fields), dict(fields)
            if proposal is BOTH:
                forth["bundle"], back["bundle"] = told[1 - number], 0x3001 - number
            to_beta = sas_of(one, other, protocol, half, spi, **forth)
            to_alpha = sas_of(other, one, protocol, half, 0x3000 + number, **back)
            alpha.add_sa(to_alpha[0])
            beta.add_sa(to_alpha[1])
            alpha.add_sa(to_beta[1])
            late.append(to_beta[0])
        with world.capture((protocol,), ()) as wire:
            pinging = world.alpha.popen(
                ["ping", "-n", "-c", "4", "-i", "0.2", "-W", "15", other], stdout=subprocess.PIPE
            )
            time.sleep(1.0)  # well within the time that they may wait
            for sa in late:
                beta.add_sa(sa)
            output, _ = pinging.communicate(timeout=60)
            assert "4 received" in str(output), (str(proposal), fields, output)
            tally = wire.tally()
        assert tally.protected_clear == 0, tally
        assert dict(beta.statistics().refused) == {}, (str(proposal), fields, beta.statistics())


def an_end_with_many_sas(world: World) -> None:
    """They go in batches, also where some have gone before, and nothing of others' does."""
    with two_drivers(world) as (alpha, _):
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, SUITES[0]))
        made = [sas_of(ALPHA, BETA, ICMP, SUITES[0], 0x1000 + number)[1] for number in range(150)]
        world.alpha.call(lambda: [alpha.driver.add_sa(sa) for sa in made])
        assert len(xfrm(world.alpha, "state")) == 150
        foreign = ["src", BETA, "dst", ALPHA, "proto", "esp", "spi", "0x77"]
        keys = ["mode", "transport", "auth", "hmac(md5)", "0x" + "11" * 16, "enc", "ecb(cipher_null)", ""]
        world.alpha.run(["ip", "xfrm", "state", "add", *foreign, *keys])
        for number in (3, 70, 149):
            spi = f"{0x1000 + number:#x}"
            world.alpha.run(
                ["ip", "xfrm", "state", "delete", "src", ALPHA, "dst", BETA, "proto", "esp", "spi", spi]
            )
        alpha.stop()
        (left,) = xfrm(world.alpha, "state")
        assert "0x00000077" in left
        assert xfrm(world.alpha, "policy") == []
        world.alpha.run(["ip", "xfrm", "state", "delete", *foreign])

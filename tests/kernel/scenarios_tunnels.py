"""Scenarios of kernel_scenarios.py: gateways with a host behind each."""

import re
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from kernel_agents import two_agents
from kernel_drivers import Here, sas_of, secure_both, two_drivers
from kernel_world import ALPHA, ALPHA6, BETA, BETA6, World, eventually, ping, speak_ipv6, xfrm

from stockade.driver.contract import Acquire
from stockade.driver.netlink import NetlinkSocket
from stockade.lab.netns import Namespace
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import ICMP, ICMPV6, TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire import xfrm as xfrm_wire
from stockade.wire import xfrm_decode
from stockade.wire.xfrm import PolicyDirection

LANS = {4: ("10.81.0.0/24", "10.82.0.0/24"), 6: ("fd81::/64", "fd82::/64")}


IN_TUNNELS = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
BOTH_IN_TUNNELS = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA_256)


def tunnel_table(
    near: str, far: str, local: str, peer: str, proposal: QuickModeProposal = IN_TUNNELS
) -> FilterTable:
    """As Windows has it: a rule for each direction, whose end point is where its packets go."""
    negotiations = {}
    filters = []
    outward = TrafficSelector(AddressRange.network(near), AddressRange.network(far))
    for name, end, direction, selector in (
        ("local/test/out", peer, Direction.OUTBOUND, outward),
        ("local/test/in", local, Direction.INBOUND, outward.reversed()),
    ):
        negotiations[name] = Negotiation(
            name,
            MainModePolicy(),
            QuickModePolicy((proposal,), mode=Mode.TUNNEL, tunnel_endpoint=ip_address(end)),
            (PresharedKey(Secret(b"x")),),
        )
        filters.append(
            make_filter(
                selector,
                direction,
                Action.NEGOTIATE,
                1,
                Provenance("local", "test", name),
                negotiation=name,
            )
        )
    return FilterTable(tuple(filters), MappingProxyType(negotiations))


def tunnels_carry_packets(world: World) -> None:
    """Two gateways, a host's address behind each; both families outside and inside, each in the other."""
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        for outer, inner, proposal in (
            *((outer, inner, IN_TUNNELS) for outer, inner in ((4, 4), (6, 6), (4, 6), (6, 4))),
            *((outer, inner, BOTH_IN_TUNNELS) for outer, inner in ((4, 4), (6, 6), (4, 6))),
        ):
            one, other = (ALPHA, BETA) if outer == 4 else (ALPHA6, BETA6)
            near, far = LANS[inner]
            target = "10.82.0.9" if inner == 4 else "fd82::9"
            back = "10.81.0.9" if inner == 4 else "fd81::9"
            with two_drivers(world) as (alpha, beta):
                alpha.install_filters(tunnel_table(near, far, one, other, proposal))
                beta.install_filters(tunnel_table(far, near, other, one, proposal))
                where = f"IPv{inner} in IPv{outer}, {proposal}"
                assert ping(behind[0], target, 1, 1) == 0, f"{where}: no SA"
                acquire = alpha.wait_for(Acquire)
                assert (str(acquire.flow.source), str(acquire.flow.destination)) == (back, target), acquire
                # in clear, from the other side: not past the gateway
                seen = beta.statistics().refused

                def change(
                    sa: SecurityAssociation, one: str = one, nets: tuple[str, str] = (near, far)
                ) -> SecurityAssociation:
                    forth = str(sa.source) == one
                    selector = TrafficSelector(*map(AddressRange.network, nets if forth else nets[::-1]))
                    return replace(sa, mode=Mode.TUNNEL, selector=selector, negotiation="local/test/out")

                if proposal.ah is not None:
                    secure_both(alpha, beta, (one, other), 0, proposal, change)
                else:
                    for spi, ends, driver in (
                        (0x1000, (one, other), (beta, alpha)),
                        (0x1001, (other, one), (alpha, beta)),
                    ):
                        for each, sa in zip(driver, sas_of(*ends, 0, proposal, spi), strict=True):
                            each.add_sa(change(sa))
                with world.capture((ICMP, ICMPV6), ()) as wire:
                    assert ping(behind[0], target, 3) == 3, where
                    if inner == 6:
                        # Only its sender cuts an IPv6 packet: the gateways tell both hosts what fits.
                        assert eventually(lambda: ping(behind[1], back, 1, size=3000) == 1), where  # noqa: B023
                    assert ping(behind[1], back, 2, size=3000) == 2, where
                    tally = wire.tally()
                assert tally.esp + tally.ah >= 8, (where, tally)
                carried = {row.spi: row.packets for row in beta.statistics().sas}
                assert carried[0x1000] >= 5, (where, carried)
                text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
                assert "mode tunnel" in text, text
                # what pretends to come from behind the tunnel, in clear
                alpha.stop()
                assert ping(behind[0], target, 2, 1) == 0, where
                after = dict(beta.statistics().refused)
                assert after.get("clear-dropped", 0) > dict(seen).get("clear-dropped", 0), (where, after)


TUNNEL_POLICY = """
ipsec static
add filterlist name=out
add filter filterlist=out srcaddr={near} srcmask={mask} dstaddr={far} dstmask={mask} mirrored=no
add filterlist name=in
add filter filterlist=in srcaddr={far} srcmask={mask} dstaddr={near} dstmask={mask} mirrored=no
add filteraction name=require inpass=no soft=no qmsecmethods="{methods}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=out policy=test filterlist=out filteraction=require tunnel={peer} psk="a key"
add rule name=in policy=test filterlist=in filteraction=require tunnel={local} psk="a key"
set policy name=test assign=yes
"""


def agents_negotiate_a_tunnel(world: World) -> None:
    """Two gateways with agents: the hosts behind them talk through ESP, and through AH around it."""
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        near, far = (net.split("/")[0] for net in LANS[4])
        for methods, extended in (
            ("ESP[AESGCM128,None]:ESN", True),
            ("AH[SHA256]+ESP[AES128,None]", False),
        ):
            common = {"mask": "255.255.255.0", "methods": methods}
            scripts = (
                TUNNEL_POLICY.format(near=near, far=far, local=ALPHA, peer=BETA, **common),
                TUNNEL_POLICY.format(near=far, far=near, local=BETA, peer=ALPHA, **common),
            )
            with world.capture((ICMP, ICMPV6), ()) as wire, two_agents(world, policies=scripts) as hosts:
                assert ping(behind[0], "10.82.0.9", 3) == 3, "the first packet is held, none is lost"
                assert ping(behind[1], "10.81.0.9", 2, size=3000) == 2, "in fragments"
                tally = wire.tally()
                assert tally.esp + tally.ah >= 10, tally
                assert tally.protected_clear == 0, tally
                for host in hosts:
                    assert len(host.ask("show", "sas")["quick_modes"]) == 1
                    written = xfrm(host.namespace, "state")
                    assert sum("mode tunnel" in text for text in written) == 2, written
                    assert all("esn" in text for text in written) is extended, written
                    assert sum("proto ah" in text for text in written) == (0 if extended else 2), written
                for host in hosts:
                    assert host.agent.terminate() == 0
                    assert eventually(lambda space=host.namespace: xfrm(space, "state") == [])
                    assert xfrm(host.namespace, "policy") == []


def two_networks(world: World, stack: ExitStack) -> list[Namespace]:
    """A host behind each of alpha and beta."""
    behind = []
    for number, gate in enumerate((world.alpha, world.beta)):
        host = stack.enter_context(Namespace(f"behind{number}"))
        gate.ip(f"link add lan type veth peer name eth0 netns {host.full_name}")
        host.call(speak_ipv6)
        gate.call(lambda: Path("/proc/sys/net/ipv6/conf/lan/disable_ipv6").write_text("0\n"))
        gate.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n"))
        gate.call(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1\n"))
        for version, length in ((4, 24), (6, 64)):
            net = LANS[version][number].split("/")[0].removesuffix("0" if version == 4 else "")
            nodad = "" if version == 4 else " nodad"
            gate.ip(f"address add {net}1/{length} dev lan{nodad}")
            host.ip(f"address add {net}9/{length} dev eth0{nodad}")
        gate.ip("link set lan up")
        host.ip("link set eth0 up", "route add default via " + ("10.81.0.1", "10.82.0.1")[number])
        host.ip("route add default via " + ("fd81::1", "fd82::1")[number])
        other = 1 - number
        gate.ip(f"route add {LANS[4][other]} via {(ALPHA, BETA)[other]}")
        gate.ip(f"route add {LANS[6][other]} via {(ALPHA6, BETA6)[other]}")
        behind.append(host)
    return behind


def sas_move_to_another_address(world: World) -> None:
    """MIGRATE: beta's end of the tunnel gets another address, with its SAs and their sequence numbers. And
    the kernel's own statistics, by our codec."""
    new = "10.79.0.77"
    world.beta.ip(f"address add {new}/24 dev eth0")
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        near, far = LANS[4]
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(tunnel_table(near, far, ALPHA, BETA))
            beta.install_filters(tunnel_table(far, near, BETA, ALPHA))
            for spi, (one, other), nets, drivers in (
                (0x1000, (ALPHA, BETA), (near, far), (beta, alpha)),
                (0x1001, (BETA, ALPHA), (far, near), (alpha, beta)),
            ):
                selector = TrafficSelector(*map(AddressRange.network, nets))
                for driver, sa in zip(drivers, sas_of(one, other, 0, IN_TUNNELS, spi), strict=True):
                    driver.add_sa(
                        replace(sa, mode=Mode.TUNNEL, selector=selector, negotiation="local/test/out")
                    )
            assert ping(behind[0], "10.82.0.9", 2) == 2
            stays, goes = (ALPHA, ALPHA), (BETA, new)
            world.alpha.call(lambda: move_ends(alpha, stays, goes))
            world.beta.call(lambda: move_ends(beta, goes, stays))
            for space in (world.alpha, world.beta):
                for text in (*xfrm(space, "state"), *xfrm(space, "policy")):
                    assert not re.search(rf"(src|dst) {re.escape(BETA)}\b", text), text
            with world.capture((ICMP,), ()) as wire:
                assert ping(behind[0], "10.82.0.9", 3) == 3
                tally = wire.tally()
            assert tally.esp >= 6, tally
            assert tally.protected_clear == 0, tally
            texts = world.alpha.run(["ip", "-s", "xfrm", "state"]).stdout
            assert "anti-replay context: seq 0x0, oseq 0x5" in " ".join(texts.split()), texts
            counted = world.alpha.call(ask_statistics)
            assert (counted[0].count, counted[1].outbound) == (2, 1), counted


def move_ends(driver: Here, own: tuple[str, str], peer: tuple[str, str]) -> None:
    """What an agent would do for ends that move, each (old, new): all policies of the tunnel, whose templates
    take any address at our end, and the SAs of both directions with the outbound one."""
    (near, near_new), (far, far_new) = (tuple(map(ip_address, ends)) for ends in (own, peer))
    any_address = ip_address("0.0.0.0")
    netlink = NetlinkSocket(socket.NETLINK_XFRM)
    for policy in driver.driver._filters._installed.values():
        outbound = policy.direction is PolicyDirection.OUT
        (template,) = policy.templates
        rest = template.protocol, template.mode, template.request_id
        if outbound:
            moves = [
                xfrm_wire.Move(any_address, far, near_new, far_new, *rest),
                xfrm_wire.Move(near, far, near_new, far_new, *rest),
                xfrm_wire.Move(far, near, far_new, near_new, *rest),
            ]
        else:
            moves = [xfrm_wire.Move(far, any_address, far_new, near_new, *rest)]
        body = xfrm_wire.migrate(policy.selector, policy.direction, moves)
        netlink.change(xfrm_wire.MessageType.MIGRATE, body)
    netlink.close()


def ask_statistics() -> tuple[xfrm_wire.SaStatistics, xfrm_wire.PolicyStatistics]:
    netlink = NetlinkSocket(socket.NETLINK_XFRM)
    body = xfrm_wire.get_statistics()
    (states,) = netlink.get(xfrm_wire.MessageType.GET_SA_STATISTICS, body)
    (policies,) = netlink.get(xfrm_wire.MessageType.GET_POLICY_STATISTICS, body)
    netlink.close()
    return (
        xfrm_decode.decode_sa_statistics(states.body),
        xfrm_decode.decode_policy_statistics(policies.body),
    )

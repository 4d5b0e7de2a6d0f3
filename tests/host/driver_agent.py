"""The agent's side of the driver tests: a program that runs in a namespace and does with a `UserspaceDriver`
what it is told, a line of JSON at a time: {"call": …}. Each line is answered by one: {"ok": …} or {"error":
reason word}."""

import json
import sys
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from stockade.agent.udp import UdpSockets
from stockade.driver.contract import Acquire, DriverFailed, PacketRefused, SaExpired, SaIdle
from stockade.driver.userspace.driver import UserspaceDriver
from stockade.driver.userspace.offloads import read_offloads
from stockade.driver.userspace.system import OWN_MARK
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector

NEGOTIATION = "rule"
STATE: dict[str, UdpSockets] = {}
SUITE = EspSuite(Encryption.AES_GCM_128, None)


def table_of(rules: list[dict[str, object]]) -> FilterTable:
    """Each rule: action, protocol, port (of the server), accept_clear; mirrored into both directions, between
    any hosts; `port` makes four filters, for either side may be the server."""
    filters = []
    tunnel_endpoint = None
    for number, rule in enumerate(rules):
        if "tunnel" in rule:
            tunnel_endpoint = ip_address(str(rule["tunnel"]))
            filters += tunnel_filters(number, rule)
            continue
        everyone = AddressRange.everything(int(str(rule.get("version", 4))))
        action = Action(str(rule["action"]))
        protocol, port = int(str(rule.get("protocol", 0))), int(str(rule.get("port", 0)))
        selectors = {
            TrafficSelector(everyone, everyone, protocol, 0, port),
            TrafficSelector(everyone, everyone, protocol, port, 0),
        }
        for direction in Direction:
            for index, selector in enumerate(sorted(selectors, key=str)):
                filters.append(
                    SpecificFilter(
                        identifier(number, rule, index, direction),
                        selector,
                        direction,
                        action,
                        1000 - number,
                        Provenance("test", "policy", f"rule {number}"),
                        negotiation=NEGOTIATION if action is Action.NEGOTIATE else None,
                        accept_clear=bool(rule.get("accept_clear")) and direction is Direction.INBOUND,
                    )
                )
    negotiation = Negotiation(
        NEGOTIATION,
        MainModePolicy(),
        QuickModePolicy((QuickModeProposal(SUITE),)),
        (PresharedKey(Secret(b"key")),),
    )
    if tunnel_endpoint is not None:
        quick_mode = replace(negotiation.quick_mode, mode=Mode.TUNNEL, tunnel_endpoint=tunnel_endpoint)
        negotiation = replace(negotiation, quick_mode=quick_mode)
    return FilterTable(tuple(filters), MappingProxyType({NEGOTIATION: negotiation}))


def identifier(number: int, rule: dict[str, object], index: int, direction: Direction) -> str:
    """As the compiler's: made from all that matters, so that another filter has another one. It begins with
    the rule's number, the filter's, and the direction's."""
    place = list(Direction).index(direction)
    return f"{number:04x}{index:02x}{place:02x}" + sha256(repr(rule).encode()).hexdigest()[:8]


def tunnel_filters(number: int, rule: dict[str, object]) -> list[SpecificFilter]:
    """`source` and `destination` are networks, `tunnel` the peer's end; its mirror comes in by the same."""
    networks = [AddressRange.network(str(rule[name])) for name in ("source", "destination")]
    selector = TrafficSelector(networks[0], networks[1])
    return [
        SpecificFilter(
            identifier(number, rule, place, direction),
            selector if direction is Direction.OUTBOUND else selector.reversed(),
            direction,
            Action.NEGOTIATE,
            1000 - number,
            Provenance("test", "policy", f"rule {number}"),
            negotiation=NEGOTIATION,
        )
        for place, direction in enumerate(Direction)
    ]


def sa_of(call: dict[str, object]) -> SecurityAssociation:
    source, destination = ip_address(str(call["source"])), ip_address(str(call["destination"]))
    spi = int(str(call["spi"]))
    integrity, ah = (str(call.get(name) or "") for name in ("integrity", "ah"))
    bundle = call.get("bundle")
    protocol = int(str(call.get("protocol", 0)))
    ends = [AddressRange.host(source), AddressRange.host(destination)]
    if "networks" in call:
        ends = [AddressRange.network(str(network)) for network in call["networks"]]
    return SecurityAssociation(
        spi=spi,
        direction=Direction(str(call["direction"])),
        source=source,
        destination=destination,
        selector=TrafficSelector(ends[0], ends[1], protocol),
        mode=Mode.TUNNEL if "networks" in call else Mode.TRANSPORT,
        esp=None
        if ah
        else EspSuite(Encryption(str(call["encryption"])), Hash(integrity) if integrity else None),
        ah=Hash(ah) if ah else None,
        encryption_key=Secret(bytes.fromhex(str(call["encryption_key"]))),
        integrity_key=Secret(bytes.fromhex(str(call["integrity_key"]))),
        pair=int(str(call["pair"])),
        negotiation=NEGOTIATION,
        filter_id="0" * 16,
        main_mode="",
        lifetime=Lifetime(),
        udp=UdpEncapsulation(4500, 4500) if call.get("udp") else None,
        bundle=None if bundle is None else int(str(bundle)),
    )


def describe(event: object) -> dict[str, object]:
    match event:
        case Acquire(filter_id, flow):
            return {"event": "acquire", "filter": filter_id, "flow": str(flow), "peer": str(flow.destination)}
        case SaExpired(spi, direction, hard, _):
            return {"event": "expired", "spi": spi, "direction": direction.value, "hard": hard}
        case SaIdle(spi, direction, _):
            return {"event": "idle", "spi": spi, "direction": direction.value}
        case PacketRefused(reason, source, _, spi, count):
            return {
                "event": "refused",
                "reason": reason.code.word,
                "source": str(source),
                "spi": spi,
                "count": count,
            }
        case DriverFailed(reason):
            return {"event": "failed", "reason": reason.code.word}
    raise AssertionError(event)


def answer(driver: UserspaceDriver, call: dict[str, object]) -> object:
    match call["call"]:
        case "start":
            if call.get("without"):
                driver._without = read_offloads(str(call["without"]).split(","))
            if call.get("queues"):
                driver._queues = int(str(call["queues"]))
            driver.start()
        case "bind_ike":
            STATE["ike"] = UdpSockets(OWN_MARK, join=driver.join_ike_socket)
        case "send_ike":
            local = next(
                address
                for address in (ip_address("10.9.0.1"), ip_address("10.9.0.2"))
                if str(address) != call["peer"]
            )
            STATE["ike"].send(
                bytes.fromhex(str(call["message"])),
                Endpoint(local, 4500),
                Endpoint(ip_address(str(call["peer"])), 4500),
            )
        case "received_ike":
            return [item[0].hex() for _, read in STATE["ike"].descriptors() for item in read()]
        case "stop":
            driver.stop(keep_filters=bool(call.get("keep")))
        case "install":
            driver.install_filters(table_of(call["rules"]))
        case "get_spi":
            return driver.get_spi(ip_address("10.0.0.1"), ip_address("10.0.0.2"))
        case "add":
            driver.add_sa(sa_of(call))
        case "remove":
            driver.remove_sa(
                int(str(call["spi"])), Direction(str(call["direction"])), ip_address(str(call["peer"]))
            )
        case "release":
            driver.release(
                str(call["filter"]),
                ip_address(str(call["peer"])),
                Reason.of(ReasonCode.NEGOTIATION_TIMED_OUT),
            )
        case "events":
            return [describe(event) for event in driver.events()]
        case "pid":
            return driver.process_id
        case "statistics":
            found = driver.statistics()
            return {
                "sas": {f"{entry.direction}": entry.packets for entry in found.sas},
                "filters": {entry.filter_id: entry.packets for entry in found.filters},
                "held": found.held_packets,
                "refused": dict(found.refused),
            }
    return None


def main() -> None:
    driver = UserspaceDriver(Path(sys.argv[1]))
    for line in sys.stdin:
        try:
            reply = {"ok": answer(driver, json.loads(line))}
        except StockadeError as error:
            reply = {"error": error.reason.code.word, "text": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

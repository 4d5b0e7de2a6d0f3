"""The whole policy model on real hosts: two agents, real packets, a capture where clear ones would show."""

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from command_line import run_stockade

sys.path.insert(0, str(Path(__file__).parent))
from test_agent import ALPHA, BETA, Host, eventually
from wire_watch import WireWatch, is_ipv4

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.netns import Namespace, Network
from stockade.model.filters import Action
from stockade.policy.objects import DEFAULT_QUICK_MODE_PROPOSALS as METHODS
from stockade.policy.objects import Filter, FilterAddress
from stockade.store.local import LocalStore

SECURITY = 'qmsecmethods="ESP[AES128,SHA256]"'
POLICY = 'add policy name=test activatedefaultrule={default} mmsecmethods="AES128-SHA256-ECP256"\n'


class Watch(WireWatch):
    """What passes alpha's port of the switch: (protocol, bytes) of IPv4 packets, but IKE and neighbours'."""

    def __init__(self, network: Network) -> None:
        self.seen: list[tuple[int, bytes]] = []
        super().__init__(network)

    def take(self, frame: bytes) -> None:
        if is_ipv4(frame):
            ports = struct.unpack(">HH", frame[34:38]) if frame[23] in (6, 17) else (0, 0)
            if not {500, 4500} & set(ports):
                self.seen.append((frame[23], frame[14:]))

    def protocols(self) -> set[int]:
        """Those that were seen until now, when it stops."""
        self.stop()
        return {protocol for protocol, _ in self.seen}


@pytest.fixture
def hosts(wire: Network, tmp_path: Path) -> tuple[Host, Host]:
    return Host(wire["alpha"], tmp_path / "alpha"), Host(wire["beta"], tmp_path / "beta")


def script(host: Host, text: str) -> None:
    path = host.home.with_suffix(".netsh")
    path.write_text("ipsec static\n" + text)
    host.stockade("netsh", "-f", str(path), "--atomic")


def start(*hosts: Host) -> None:
    for host in hosts:
        host.agent.start()
    for host in hosts:
        host.agent.wait_until_ready()


def answered(ping: "subprocess.Popen[str]") -> tuple[int, int]:
    """Sent and received, of a ping that ended or is told to (SIGINT by the caller)."""
    text = ping.communicate(timeout=120)[0]
    words = next(line for line in text.splitlines() if "packets transmitted" in line).split()
    return int(words[0]), int(words[3])


def test_unrelated_changes_cost_running_traffic_nothing(hosts, wire):
    """20 changes of rules that the traffic does not meet: not a packet lost, the same SAs, nothing clear."""
    alpha, beta = hosts
    alpha.write_policy(BETA)
    beta.write_policy(ALPHA)
    start(alpha, beta)
    assert alpha.ping(BETA, count=2)
    before = [row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]]
    watch = Watch(wire)
    running = alpha.namespace.popen(
        ["ping", "-q", "-i", "0.02", "-c", "400", "-W", "20", BETA], stdout=subprocess.PIPE
    )
    script(alpha, "add filterlist name=other\nadd filteraction name=deny action=block\n"
                  "add filter filterlist=other srcaddr=me dstaddr=10.99.0.1\n"
                  "add rule name=other policy=test filterlist=other filteraction=deny\n")  # fmt: skip
    store, client = LocalStore(alpha.home / "policy.db"), AgentClient(Paths.of(alpha.home).socket)
    sizes = []
    for number in range(20):
        with store.transaction() as change:
            old = change.read().filter_list("other")
            if number % 5 == 4:  # a name that nobody resolves: a block for any address
                more = Filter(FilterAddress.me(), FilterAddress.named("nobody.stockade.test"), 6, 0, 7)
            else:
                more = Filter(FilterAddress.me(), FilterAddress.any(), 6, 0, 3000 + number)
            keep = old.filters[-3:] if number % 2 else old.filters
            change.put_filter_list(replace(old, filters=(*keep, more)))
        sizes.append(client.post("/v1/policy/reload")["filters"])
        assert client.get("/v1/status")["policy_refused"] is None
    store.close()
    assert len(set(sizes)) > 2  # the table did change
    assert answered(running) == (400, 400)
    assert [row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]] == before
    assert watch.protocols() == {50}


@pytest.fixture
def sites(wire: Network, hosts: tuple[Host, Host]) -> Iterator[tuple[Host, Host, Namespace, Namespace]]:
    """alpha and beta are gateways; 10.71.0.9 and 10.72.0.9 stand behind them."""
    with ExitStack() as stack:
        inner = []
        for number, (host, other) in enumerate(zip(hosts, (BETA, ALPHA), strict=True)):
            lan, behind = f"10.7{1 + number}.0", stack.enter_context(Namespace(f"behind{number}"))
            gate = host.namespace
            gate.ip(f"link add lan type veth peer name eth0 netns {behind.full_name}")
            gate.ip(f"addr add {lan}.1/24 dev lan", "link set lan up", f"route add default via {other}")
            behind.ip(f"addr add {lan}.9/24 dev eth0", "link set eth0 up", f"route add default via {lan}.1")
            gate.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
            inner.append(behind)
        yield (*hosts, *inner)


def tunnel_script(here: str, there: str, own: str, peer: str) -> str:
    """As an administrator of Windows writes it: two rules that are not mirrored."""
    return (
        POLICY.format(default="no")
        + f"add filteraction name=secure {SECURITY}\n"
        + f"add filter filterlist=out srcaddr={here} dstaddr={there} mirrored=no\n"
        + f"add filter filterlist=in srcaddr={there} dstaddr={here} mirrored=no\n"
        + f'add rule name=out policy=test filterlist=out filteraction=secure tunnel={peer} psk="k"\n'
        + f'add rule name=in policy=test filterlist=in filteraction=secure tunnel={own} psk="k"\n'
        + "set policy name=test assign=yes\n"
    )


def test_two_rules_make_a_tunnel_between_two_nets(sites, wire):
    alpha, beta, one, other = sites
    lans = ("10.71.0.0/24", "10.72.0.0/24")
    script(alpha, tunnel_script(*lans, ALPHA, BETA))
    script(beta, tunnel_script(*lans[::-1], BETA, ALPHA))
    start(alpha, beta)
    watch = Watch(wire)

    def ping(host: Namespace, address: str, *options: str) -> int:
        argv = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", *options, address]
        result = host.run(argv, check=False, timeout=60)
        return int(next(line for line in result.stdout.splitlines() if "transmitted" in line).split()[3])

    assert ping(one, "10.72.0.9") == 3
    assert ping(other, "10.71.0.9", "-s", "2500") == 3
    for host in (alpha, beta):
        (row,) = host.ask("show", "sas")["quick_modes"]
        assert row["traffic"].startswith("any 10.7")
        assert row["inbound_packets"] > 3
    assert watch.protocols() == {50}
    # what the tunnel is not for goes its own way
    assert alpha.ping(BETA)


def test_the_default_response_rule_answers_a_peer_that_asks(hosts, wire):
    alpha, beta = hosts
    alpha.write_policy(BETA, psk="k", methods="ESP[3DES,SHA1]")
    methods = 'mmsecmethods="AES128-SHA256-ECP256"'
    script(beta, f"add policy name=answers {methods}\n"
                 'set defaultrule policy=answers activate=yes psk="k" qmsecmethods="ESP[3DES,SHA1]"\n'
                 "set policy name=answers assign=yes\n")  # fmt: skip
    start(alpha, beta)
    assert beta.ask("status")["filters"] == 0
    watch = Watch(wire)
    assert alpha.ping(BETA, count=3)
    assert watch.protocols() == {50}
    rows = beta.ask("show", "filters")["filters"]
    assert {row["direction"] for row in rows if row["action"] == "negotiate"} == {"inbound", "outbound"}
    AgentClient(Paths.of(alpha.home).socket).post("/v1/sas/delete", {"peer": BETA})
    assert eventually(lambda: beta.ask("status")["filters"] == 0)


def write_soft_policy(host: Host) -> None:
    """Security is asked for with beta, and clear text spoken where there is none."""
    script(host, POLICY.format(default="no")
           + f"add filteraction name=request {SECURITY} soft=yes inpass=yes\n"
           + f"add filter filterlist=l srcaddr=me dstaddr={BETA}\n"
           + 'add rule name=r policy=test filterlist=l filteraction=request psk="k"\n'
           + "set policy name=test assign=yes\n")  # fmt: skip


def test_a_peer_without_ipsec_is_spoken_with_in_clear_where_the_rule_says_soft(hosts):
    alpha, _ = hosts
    write_soft_policy(alpha)
    start(alpha)
    assert not alpha.ping(BETA, seconds=1)
    assert eventually(lambda: alpha.ask("show", "sas")["soft"])
    assert alpha.ping(BETA, count=3)
    (row,) = alpha.ask("show", "sas")["soft"]
    assert (row["peer"], "3 seconds" in row["why"]) == (BETA, True)
    assert "soft" in alpha.stockade("status").stdout
    assert alpha.ask("status")["soft"] == 1
    # 500 ms with the Simple Policy Update, at once and after a restart
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "simplepolicyupdate", "1")
    alpha.agent.terminate()
    start(alpha)
    alpha.ping(BETA, seconds=1)
    assert eventually(lambda: alpha.ask("show", "sas")["soft"])
    told = [entry for entry in alpha.journal() if entry["kind"] == "soft-established"]
    assert "0.5 seconds" in told[-1]["text"]


def test_with_negotiation_discovery_not_even_the_first_packet_is_lost(hosts):
    alpha, _ = hosts
    alpha.home.mkdir(mode=0o700, exist_ok=True)
    (alpha.home / "agent.toml").write_text("[soft]\nnegotiation_discovery = true\n")
    write_soft_policy(alpha)
    start(alpha)
    assert alpha.ping(BETA, count=1, seconds=20)
    (row,) = alpha.ask("show", "sas")["soft"]
    assert "negotiation discovery" in row["why"]


def dns_server(namespace: Namespace, address: str, answers: dict[str, str]) -> threading.Event:
    """A name server for A questions in a thread; names that are not in `answers` do not exist. Setting the
    event makes it silent."""
    silent = threading.Event()
    server = namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind((address, 53))
    server.settimeout(60)

    def serve() -> None:
        while True:
            try:
                question, client = server.recvfrom(4096)
            except OSError:
                return
            if silent.is_set():
                continue
            at, labels = 12, []
            while question[at]:
                labels.append(question[at + 1 : at + 1 + question[at]].decode())
                at += 1 + question[at]
            kind = struct.unpack(">H", question[at + 1 : at + 3])[0]
            found = answers.get(".".join(labels).lower())
            flags = 0x8180 if found else 0x8183
            reply = question[:2] + struct.pack(">HHHHH", flags, 1, int(bool(found) and kind == 1), 0, 0)
            reply += question[12 : at + 5]
            if found and kind == 1:
                reply += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 30, 4) + socket.inet_aton(found)
            server.sendto(reply, client)

    threading.Thread(target=serve, daemon=True).start()
    return silent


def test_names_servers_and_gateways_are_found_and_followed(hosts, tmp_path):
    alpha, beta = hosts
    folder = Path("/etc/netns") / alpha.namespace.full_name
    folder.mkdir(parents=True)
    try:
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {BETA}\noptions timeout:1 attempts:1\n")
        names = {"peer.stockade.test": BETA}
        silent = dns_server(beta.namespace, BETA, names)
        alpha.home.mkdir(mode=0o700)
        (alpha.home / "agent.toml").write_text("[host]\nname_refresh_seconds = 5\n")
        script(alpha, POLICY.format(default="no")
               + "add filteraction name=deny action=block\n"
               + "add filter filterlist=l srcaddr=me dstaddr=10.78.0.77 protocol=TCP dstport=7\n"
               + "add filter filterlist=l srcaddr=me dstaddr=gateway protocol=UDP dstport=9\n"
               + "add filter filterlist=l srcaddr=me dstaddr=dns protocol=UDP dstport=99\n"
               + "add rule name=r policy=test filterlist=l filteraction=deny\n"
               + "set policy name=test assign=yes\n")  # fmt: skip
        store = LocalStore(alpha.home / "policy.db")
        with store.transaction() as change:  # netsh looks a name up at once; the model keeps it
            old = change.read().filter_list("l")
            named = Filter(FilterAddress.me(), FilterAddress.named("peer.stockade.test"), 6, 0, 23)
            change.put_filter_list(replace(old, filters=(*old.filters, named)))
        store.close()
        start(alpha)

        def destinations(port: int) -> set[str]:
            rows = alpha.ask("show", "filters")["filters"]
            return {row["destination"] for row in rows if row["destination_port"] == port}

        assert eventually(lambda: destinations(23) == {BETA})
        assert destinations(99) == {BETA}
        doubts = run_stockade(alpha.namespace, alpha.home, "lint").stdout
        assert "local store" in doubts
        assert "peer.stockade.test" not in doubts  # lint knows what the agent found out
        assert destinations(9) == set()
        alpha.namespace.ip("route add default via 10.78.0.200")
        assert eventually(lambda: destinations(9) == {"10.78.0.200"})
        names["peer.stockade.test"] = "10.78.0.55"
        assert eventually(lambda: destinations(23) == {"10.78.0.55"})
        silent.set()

        def failed() -> bool:
            return bool(alpha.ask("status")["facts"]["names"][0]["error"])

        assert eventually(failed)
        assert destinations(23) == {"10.78.0.55"}  # the last good answer
        assert [entry for entry in alpha.journal() if entry["kind"] == "name-not-resolved"]
        shown = alpha.stockade("status").stdout
        assert "peer.stockade.test" in shown
        assert "10.78.0.200" in shown
        resolver.write_text("nameserver 10.78.0.66\n")
        assert eventually(lambda: destinations(99) == {"10.78.0.66"})
        # A start with a resolver that says nothing knows what was known.
        alpha.agent.kill()
        start(alpha)
        assert destinations(23) == {"10.78.0.55"}
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def in_boot_filters(host: Host) -> bool:
    result = host.namespace.run(["nft", "list", "table", "inet", "stockade_boot"], check=False)
    return result.returncode == 0


def open_port(host: Host, port: int, source: Host) -> bool:
    """Whether a TCP connection from `source` gets to a listener on `host`."""
    listener = host.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    caller = source.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with listener, caller:
        listener.bind(("0.0.0.0", port))
        listener.listen()
        caller.settimeout(1.5)
        target = ALPHA if source.home.name == "beta" else BETA
        return caller.connect_ex((target, port)) == 0


REFUSED = (
    POLICY.format(default="no")
    + "add filteraction name=deny action=block\nadd filter filterlist=l srcaddr=me dstaddr=10.99.0.1\n"
    + "add rule name=r policy=test filterlist=l filteraction=deny\nset policy name=test assign=yes\n"
)


@pytest.mark.parametrize("mode", ["block", "stateful", "permit"])
def test_a_first_start_whose_policy_is_refused_leaves_the_host_as_its_boot_mode_says(hosts, mode):
    alpha, beta = hosts
    script(alpha, REFUSED)
    store = LocalStore(alpha.home / "policy.db")
    with store.transaction() as change:
        content = change.read()
        multicast = Filter(FilterAddress.me(), FilterAddress.of(ip_address("224.0.0.9")))
        change.put_filter_list(replace(content.filter_list("l"), filters=(multicast,)))
        secured = replace(content.filter_action("deny"), action=Action.NEGOTIATE, methods=METHODS)
        change.put_filter_action(secured)
    store.close()
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "bootmode", mode)
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "bootexemptions", "tcp:0:3389:inbound")
    alpha.agent.start()
    assert eventually(lambda: alpha.status_or_none() is not None)
    status = alpha.status_or_none()
    assert status["policy"] is None
    assert status["policy_refused"]["reason"] == "not-securable"
    assert status["boot_filters"] == ("" if mode == "permit" else mode)
    assert open_port(alpha, 22, beta) == (mode == "permit")
    assert open_port(alpha, 3389, beta)
    assert open_port(beta, 80, alpha) == (mode != "block")
    # A better policy opens it, without a restart.
    alpha.stockade("netsh", "ipsec", "static", "set", "filteraction", "deny", "action=block")
    assert eventually(lambda: alpha.ask("status")["policy"] == "test")
    assert not in_boot_filters(alpha)
    assert open_port(alpha, 22, beta)


def test_the_persistent_policy_holds_alone_when_the_local_one_is_refused_and_after_a_stop(hosts):
    alpha, beta = hosts
    script(alpha, "set store persistent\n" + POLICY.format(default="no").replace("test", "always")
           + "add filteraction name=deny action=block\nadd filteraction name=let action=permit\n"
           + "add filter filterlist=telnet srcaddr=any dstaddr=me protocol=TCP dstport=23\n"
           + "add filter filterlist=web srcaddr=any dstaddr=me protocol=TCP dstport=80\n"
           + "add rule name=no policy=always filterlist=telnet filteraction=deny\n"
           + "add rule name=yes policy=always filterlist=web filteraction=let\n"
           + "set policy name=always assign=yes\n")  # fmt: skip
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "bootmode", "stateful")
    (alpha.home / "policy.last-good.db").unlink(missing_ok=True)
    (alpha.home / "policy.db").write_bytes(b"no database at all" * 1000)
    for leftover in alpha.home.glob("policy.db-*"):
        leftover.unlink()
    alpha.agent.start()
    assert eventually(lambda: alpha.status_or_none() is not None)
    status = alpha.status_or_none()
    assert status["policy_refused"]["reason"] == "store-unreadable"
    # Nobody can read what the boot mode is: block, but for what the persistent policy permits.
    assert status["boot_filters"] == "block"
    assert [open_port(alpha, port, beta) for port in (23, 80, 8080)] == [False, True, False]
    assert not open_port(beta, 80, alpha)
    # The stores are put right: everything is in force, and after an orderly stop the persistent policy is.
    (alpha.home / "policy.db").unlink()
    script(alpha, REFUSED)
    assert eventually(lambda: alpha.ask("status")["policy_refused"] is None)
    assert not in_boot_filters(alpha)
    assert [open_port(alpha, port, beta) for port in (23, 80, 8080)] == [False, True, True]
    assert alpha.agent.terminate() == 0
    assert [open_port(alpha, port, beta) for port in (23, 80, 8080)] == [False, True, True]


def test_the_persistent_policy_is_in_force_before_the_rest_at_a_start(hosts):
    alpha, beta = hosts
    script(alpha, "set store persistent\n" + POLICY.format(default="no").replace("test", "always")
           + "add filteraction name=deny action=block\n"
           + "add filter filterlist=telnet srcaddr=any dstaddr=me protocol=TCP dstport=23\n"
           + "add rule name=no policy=always filterlist=telnet filteraction=deny\n"
           + "set policy name=always assign=yes\n")  # fmt: skip
    alpha.write_policy(BETA)
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "bootmode", "block")
    alpha.agent.start()
    assert eventually(lambda: alpha.status_or_none() is not None)
    loaded = [entry["facts"]["policy"] for entry in alpha.journal() if entry["kind"] == "policy-loaded"]
    assert loaded[0] == "always"
    assert len(loaded) == 2
    assert "always" in loaded[1]
    assert loaded[1] != "always"
    assert not in_boot_filters(alpha)
    assert not open_port(alpha, 23, beta)


def test_settings_act_and_survive_a_restart(hosts):
    alpha, beta = hosts
    alpha.write_policy(BETA)
    for words in (
        ("ipsecdiagnostics", "1"),
        ("ipsecloginterval", "60"),
        ("ipsecexempt", "0"),
        ("strongcrlcheck", "2"),
    ):
        alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", *words)
    start(alpha)
    assert not beta.ping(ALPHA, seconds=1)  # beta has no IPsec: dropped, and not told one by one
    assert any("Kerberos" in row["provenance"] for row in alpha.ask("show", "filters")["filters"])
    refused = eventually(lambda: alpha.ask("status")["refused_packets"].get("clear-dropped"))
    assert refused
    assert not [entry for entry in alpha.journal() if entry["kind"] == "packets-refused"]
    alpha.stockade("netsh", "ipsec", "dynamic", "set", "config", "ipsecdiagnostics", "7")
    beta.ping(ALPHA, seconds=1)
    assert eventually(lambda: [one for one in alpha.journal() if one["kind"] == "packets-refused"])
    shown = json.loads(
        alpha.stockade("netsh", "ipsec", "dynamic", "show", "config", "--format", "json").stdout
    )["data"]["config"]
    assert (shown["ipsecexempt"], shown["strongcrlcheck"]) == ("0", "2")

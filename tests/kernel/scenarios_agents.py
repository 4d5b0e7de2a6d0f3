"""Scenarios of kernel_scenarios.py: agents, IKE and the kernel's ESP between them."""

import json
import os
import re
import signal
import time
from pathlib import Path

from kernel_agents import Host, KeptAgent, two_agents
from kernel_world import (
    ALPHA,
    BETA,
    BLOCKED_PORT,
    PERMITTED_PORT,
    SECURED_PORT,
    World,
    connects,
    eventually,
    is_loopback,
    ping,
    xfrm,
)

from stockade.driver.kernel.driver import KernelDriver
from stockade.lab.examples import STOCKADE
from stockade.wire.pcap import read_capture


def agents_negotiate_and_carry_traffic(world: World) -> None:
    """Two agents, real IKE, real ESP in the kernel; `ip xfrm` reads what they wrote; at the end nothing is
    left."""
    with world.capture() as wire, two_agents(world, "ESP[AES128,SHA256]") as (alpha, beta):
        assert ping(world.alpha, BETA, 3) == 3, "the first packet is held, none is lost"
        assert ping(world.beta, ALPHA, 2, size=3000) == 2, "in fragments"
        assert connects(world.alpha, world.beta, BETA, SECURED_PORT)
        tally = wire.tally()
        assert tally.esp > 0, tally
        assert tally.protected_clear == 0, tally

        for host, peer in ((alpha, BETA), (beta, ALPHA)):
            sas = host.ask("show", "sas")
            assert len(sas["main_modes"]) == 1, sas
            assert len(sas["quick_modes"]) == 2, sas  # ICMP and TCP
            assert all(
                row["inbound_packets"] > 0 and row["outbound_packets"] > 0 for row in sas["quick_modes"]
            )
            written = xfrm(host.namespace, "state")
            for row in sas["quick_modes"]:
                for spi, ends in (
                    (row["outbound_spi"], f"src {row['local']} dst {peer}"),
                    (row["inbound_spi"], f"src {peer} dst {row['local']}"),
                ):
                    (entry,) = [text for text in written if spi in text]
                    assert entry.startswith(ends), entry
                    assert "proto esp" in entry, entry
                    assert "mode transport" in entry, entry
                    assert "auth-trunc hmac(sha256)" in entry, entry
                    assert "enc cbc(aes)" in entry, entry
        ours = {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}
        assert ours == {row["outbound_spi"] for row in beta.ask("show", "sas")["quick_modes"]}

        # loopback is left alone; those policies belong to no filter
        policies = [text for text in xfrm(world.alpha, "policy") if not is_loopback(text)]
        rows = alpha.ask("show", "filters")["filters"]
        for direction, word in (("inbound", "dir in"), ("outbound", "dir out")):
            mine = [text for text in policies if f" {word} " in text]
            wanted = [row for row in rows if row["direction"] == direction]
            assert len(mine) == len(wanted), (mine, wanted)
            priorities = [int(re.search(r"priority (\d+)", text)[1]) for text in mine]
            in_order = [text for _, text in sorted(zip(priorities, mine, strict=True))]
            for text, row in zip(in_order, wanted, strict=True):
                assert ("action block" in text) == (row["action"] == "block"), (text, row)
                assert ("tmpl" in text) == (row["action"] == "negotiate"), (text, row)
                port = row["destination_port"] or 0
                assert (f"dport {port}" in text) == bool(port), (text, row)
        secured = [row for row in rows if row["action"] == "negotiate"]
        assert any(row["packets"] > 0 for row in secured), secured
        a_capture_shows_packets_before_and_after(world, alpha)

        for host in (alpha, beta):
            assert host.agent.terminate() == 0
            assert xfrm(host.namespace, "state") == []
            assert xfrm(host.namespace, "policy") == []
            assert host.namespace.run(["cat", "/proc/sys/net/core/xfrm_larval_drop"]).stdout.strip() == "1"
    assert ping(world.alpha, BETA, 1) == 1, "without a policy everything passes in clear"


def a_capture_shows_packets_before_and_after(world: World, host: Host) -> None:
    """Packet sockets see ESP only: the capture opens it. The last packets are of SAs that came up later."""
    file = world.folder / "both-sides.pcapng"
    pattern = b"sixteen bytes in"
    command = [*STOCKADE, "--home", str(host.home), "capture", "--format", "json", str(file)]
    said = world.folder / "capture.json"
    with said.open("w") as stream:
        capture = host.namespace.popen(command, stdout=stream.fileno())
    try:
        assert eventually(file.exists)
        words = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", "-p", pattern.hex(), host.peer]
        assert host.namespace.run(words, check=False, timeout=60).returncode == 0
        assert eventually(lambda: file.read_bytes().count(pattern * 2) >= 6)
        host.stockade("sa", "delete", host.peer)
        assert host.namespace.run(words, check=False, timeout=60).returncode == 0
        assert eventually(lambda: file.read_bytes().count(pattern * 2) >= 12)
    finally:
        capture.send_signal(signal.SIGINT)
        capture.wait(60)
    told = json.loads("{" + said.read_text().partition("{")[2])  # what it says before goes there too
    assert told["missing"] == told["not_opened"] == 0, told
    seen = list(read_capture(file.read_bytes()))
    assert told["packets"] == len(seen)
    sealed = [one for one in seen if one.interface == 0 and one.data[9] == 50]
    clear = [one.data for one in seen if one.interface == 1]
    assert len(sealed) == len(clear) == 12, (len(sealed), len(clear))
    assert not any(pattern in one.data for one in sealed)
    assert all(packet[9] == 1 and pattern in packet for packet in clear)
    assert [packet[20] for packet in clear].count(8) == 6, "requests before, answers after IPsec"
    file.unlink()
    (told_of,) = {row["facts"]["kept"] for row in host.ask("events", "--kind", "keys-exported")["entries"]}
    assert told_of == "in memory"


def permit_and_block_are_kept(world: World) -> None:
    with two_agents(world, "ESP[AESGCM128,None]") as (alpha, _):
        assert connects(world.alpha, world.beta, BETA, PERMITTED_PORT), "permitted"
        assert xfrm(world.alpha, "state") == [], "permitted traffic needs no SA"
        assert not connects(world.alpha, world.beta, BETA, BLOCKED_PORT, 2), "blocked outbound"
        assert not connects(world.beta, world.alpha, ALPHA, BLOCKED_PORT, 2), "blocked inbound"
        assert connects(world.beta, world.alpha, ALPHA, SECURED_PORT), "secured, begun by the other end"
        (state, *_) = xfrm(world.alpha, "state")
        assert "aead rfc4106(gcm(aes))" in state, state
        # another policy under way: what was secured becomes blocked, and comes back
        alpha.stockade(
            "netsh", "ipsec", "static", "set", "rule", "name=secure", "policy=test", "filteraction=block"
        )
        assert eventually(lambda: ping(world.alpha, BETA, 1, 1) == 0)
        alpha.stockade(
            "netsh", "ipsec", "static", "set", "rule", "name=secure", "policy=test", "filteraction=require"
        )
        assert eventually(lambda: ping(world.alpha, BETA, 1, 2) == 1)


def clear_traffic_is_refused(world: World) -> None:
    """Only alpha has an agent: nothing that needs security passes, in either direction."""
    alpha = Host(world, world.alpha, BETA)
    alpha.apply()
    alpha.agent.start()
    try:
        alpha.agent.wait_until_ready()
        with world.capture((), ()) as wire:
            assert ping(world.beta, ALPHA, 2, 1) == 0
            assert ping(world.alpha, BETA, 2, 1) == 0
            assert not connects(world.beta, world.alpha, ALPHA, SECURED_PORT, 2)
            assert wire.tally().ike > 0, "nobody asked for an SA"
        refused = alpha.ask("status")["refused_packets"]
        assert refused.get("clear-dropped", 0) > 0, refused
    finally:
        alpha.agent.kill()
    # killed: closed, not open
    assert ping(world.alpha, BETA, 1, 1) == 0
    assert ping(world.beta, ALPHA, 1, 1) == 0
    world.alpha.call(lambda: KernelDriver().stop())
    assert xfrm(world.alpha, "policy") == []
    assert ping(world.alpha, BETA, 1, 1) == 1


def a_killed_agent_comes_back(world: World) -> None:
    """kill -9 under traffic: the SAs in the kernel go on, nothing passes in clear, the new agent adopts them
    and makes new ones, and no packet is lost."""
    with world.capture() as wire, two_agents(world) as (alpha, _):
        assert ping(world.alpha, BETA, 2) == 2
        before = {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}
        output = alpha.home.with_name("pings.txt")
        with output.open("w") as file:
            pinging = world.alpha.popen(["ping", "-n", "-i", "0.05", BETA], stdout=file.fileno())
        alpha.agent.kill()
        assert not connects(world.alpha, world.beta, BETA, SECURED_PORT, 2), "new traffic waits for an agent"
        alpha.agent.start()
        alpha.agent.wait_until_ready()
        kinds = [entry["kind"] for entry in alpha.ask("show", "journal", "--last", "100")["entries"]]
        assert "quick-mode-adopted" in kinds, kinds
        assert "sa-not-adopted" not in kinds, kinds

        def rows() -> set[str]:
            return {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}

        assert eventually(lambda: bool(rows() - before), 20), "SAs of the new agent"
        assert connects(world.alpha, world.beta, BETA, SECURED_PORT, 10)

        def old() -> list[str]:
            return [text for text in xfrm(world.alpha, "state") if any(spi in text for spi in before)]

        assert eventually(lambda: not old(), 60), old()
        answers = output.read_text().count("bytes from")
        assert eventually(lambda: output.read_text().count("bytes from") > answers + 10, 20)
        pinging.send_signal(signal.SIGINT)
        pinging.wait(10)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
        assert answered == set(range(1, max(answered) + 1)), "a packet was lost"
        assert ping(world.beta, ALPHA, 2) == 2
        tally = wire.tally()
        assert tally.protected_clear == 0, tally


def counted(*hosts: Host) -> dict[str, int]:
    """What the kernels of these hosts count of UDP and of IPsec."""
    found: dict[str, int] = {}
    for host in hosts:
        names: list[str] = []
        for file in ("snmp", "xfrm_stat"):
            for line in host.namespace.run(["cat", f"/proc/net/{file}"]).stdout.splitlines():
                kind, *values = line.split()
                if kind.startswith("Xfrm"):
                    found[f"{host.namespace.name} {kind}"] = int(values[0])
                elif kind == "Udp:" and values[0].isdecimal():
                    found |= {
                        f"{host.namespace.name} Udp{name}": int(value)
                        for name, value in zip(names, values, strict=True)
                    }
                names = values
    return found


def evidence(is_kept: bool, lost: set[int], output: Path, before: dict[str, int], *hosts: Host) -> str:
    """What there is to know of lost echoes: when, what was counted meanwhile, what the agents did."""
    lines = [f"the socket is {'' if is_kept else 'not '}kept; lost: {sorted(lost)}"]
    near = {number + by for number in lost for by in (-1, 1)}
    lines += [
        line
        for line in output.read_text().splitlines()
        if (number := re.search(r"icmp_seq=(\d+)", line)) and int(number[1]) in near
    ]
    lines += [
        f"{name}: {value - before.get(name, 0):+d}"
        for name, value in counted(*hosts).items()
        if value != before.get(name, 0)
    ]
    for host in hosts:
        journal = (host.home / "journal" / "journal.jsonl").read_text().splitlines()
        lines += [f"{host.namespace.name} refused: {host.ask('status')['refused_packets']}", *journal[-24:]]
        lines += [text.partition(" reqid")[0] for text in xfrm(host.namespace, "state")]
    return "\n".join(lines)


def packets_through_a_nat_survive_a_killed_agent(world: World) -> None:
    """alpha is behind a NAT, so ESP comes to a socket of its agent. The agent is killed and comes back two
    seconds later; its service manager has kept the socket, and no packet is lost. Without that they are."""
    for port in (500, 4500):
        rule = f"-t nat -A POSTROUTING -o eth0 -p udp --sport {port} -j SNAT --to-source {ALPHA}"
        world.alpha.run(["iptables-legacy", *f"{rule}:{20_000 + port}".split()])
    with two_agents(world) as (alpha, beta):
        alpha.agent.terminate()
        for is_kept in (True, False):
            agent = alpha.agent = KeptAgent(world.alpha, alpha.home)
            agent.start()
            agent.wait_until_ready()
            assert eventually(lambda: ping(world.alpha, BETA, 2, 2) == 2), "a way through the NAT"
            assert any("espinudp" in text for text in xfrm(world.alpha, "state")), xfrm(world.alpha, "state")
            agent.listen()
            assert set(agent.kept) == {"esp-in-udp-4", "esp-in-udp-6"}
            if not is_kept:
                for descriptor in agent.kept.values():
                    os.close(descriptor)
                agent.kept.clear()
            output = alpha.home.with_name(f"pings-{is_kept}.txt")
            with output.open("w") as file:
                pinging = world.alpha.popen(["ping", "-n", "-D", "-i", "0.05", BETA], stdout=file.fileno())
            before = counted(alpha, beta)
            assert eventually(lambda file=output: file.read_text().count("bytes from") > 10)
            agent.kill()
            time.sleep(2)
            agent.start()
            agent.wait_until_ready()
            answers = output.read_text().count("bytes from")
            assert eventually(
                lambda file=output, n=answers: file.read_text().count("bytes from") > n + 10, 60
            )
            pinging.send_signal(signal.SIGINT)
            pinging.wait(10)
            answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
            lost = set(range(1, max(answered) + 1)) - answered
            assert bool(lost) is not is_kept, evidence(is_kept, lost, output, before, alpha, beta)
            agent.listen()
            assert agent.terminate() == 0
            agent.close()
        assert eventually(lambda: xfrm(world.alpha, "state") == []), "nothing is left"

"""What is tried with strongSwan and libreswan, whatever data plane is ours and wherever the peers run.

A trial is `case/peer/role`; `role` is ours. `attempt` makes one and says what became of it: passed, failed,
cannot (the peer; detail says why), we cannot.
"""

import re
import time
import traceback
from collections.abc import Callable, Iterator

from interop_both_phases import we_rekey_both_phases
from interop_cases import BY_NAME, CASES, PEERS, Case
from interop_laboratory import (
    SETTINGS,
    Laboratory,
    bring_up,
    check_sas,
    delete,
    eventually,
    ping,
    rekeyed,
    stream,
)
from interop_nat import MAPPED_ANEW, change_mapping

from stockade.model.traffic import TCP

COME_BACK_SECONDS = {"responder": 90.0, "initiator": 120.0}
"""By our role: a peer that begins is there at once; where only we speak we must notice first."""
ASKED_SECONDS = 5
"""For so long a peer asks every second whether we live."""


def carries_traffic(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SAs, packets both ways, delete."""
    ours, _ = ends = case.traffic(peer, role)
    # behind a NAT in transport mode each end knows itself, and the other as the NAT shows it
    theirs = laboratory.peers[peer].host
    seen = ends if case.tunnel else (case.our_address(role), case.own_address(peer, role))
    here = case.own_address(peer, role)
    beside = frozenset(other.own_address(one, role) for one in PEERS for other in CASES) - {here}
    with laboratory.capture(peer, only_ours=role == "initiator", beside=beside) as wire:
        bring_up(laboratory, case, peer, role)
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        assert ping(theirs, (seen[1], seen[0]), 3) == 3, "echo requests were lost"
        stream(laboratory.our_host, theirs, ends, seen[1])
        stream(theirs, laboratory.our_host, (seen[1], seen[0]), ours)
        check_sas(laboratory, case, peer, role)
        tally = wire.tally()
    assert tally.missed == 0, tally
    assert (tally.ah if case.ah else tally.esp) > 0, tally
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def rekeys_lose_nothing(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Lifetimes of seconds on the peer's side: both phases are made anew while echo requests go."""
    bring_up(laboratory, case, peer, role)
    ends = case.traffic(peer, role)
    address = case.address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    with laboratory.capture(peer, only_ours=True) as wire, laboratory.pinging(peer, ends):
        first = str(laboratory.quick_modes(address)[0]["inbound_spi"])
        modes = {str(row["cookies"]) for row in laboratory.stockade.main_modes()}
        eventually(
            lambda: rekeyed(laboratory, address, first, modes),
            60,
            lambda: f"not rekeyed: {laboratory.stockade.client.get('/v1/sas')}",
        )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def we_answer_that_we_live(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The peer asks every second whether we are there (RFC 3706), and would give up after three without an
    answer. That we ask a peer, and what becomes of it when it is gone, shows where one is killed."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    (before,) = laboratory.quick_modes(address)
    log = len(laboratory.peers[peer].log())
    with laboratory.capture(peer, only_ours=True) as wire:
        time.sleep(ASKED_SECONDS)
        questions_and_answers = wire.tally().ike
    assert questions_and_answers >= 4, questions_and_answers
    if peer == "strongswan":  # libreswan says nothing of it
        said = laboratory.peers[peer].log()[log:]
        assert said.count("N(DPD_ACK)") >= 2, said
    (after,) = laboratory.quick_modes(address)
    assert after["inbound_spi"] == before["inbound_spi"]
    assert laboratory.states(case, peer, role), "the peer gave us up"
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    delete(laboratory, case, peer, role)


def we_rekey_by_volume(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """20 MB is the lifetime that our policy grants: we make the quick mode anew while TCP goes on."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    first = str(laboratory.quick_modes(address)[0]["inbound_spi"])
    theirs = laboratory.peers[peer].host
    # without echo requests: so much at once may displace one of them in any queue of the way
    stream(laboratory.our_host, theirs, ends, ends[1], 14 << 20)
    with laboratory.pinging(peer, ends):
        # more at once would pass the hard limit too before a busy machine has negotiated
        for _ in range(40):
            stream(laboratory.our_host, theirs, ends, ends[1], 1 << 20)
            time.sleep(0.2)
            if rekeyed(laboratory, address, first, set()):
                break
        eventually(
            lambda: rekeyed(laboratory, address, first, set()),
            60,
            lambda: f"not rekeyed: {laboratory.quick_modes(address)}",
        )
    delete(laboratory, case, peer, role)


def a_killed_peer_comes_back(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGKILL, its SAs are lost (the machine started anew), and it starts again. The end that has something
    to say, which is the one of the role, brings the connection back."""
    node = laboratory.peers[peer]
    bring_up(laboratory, case, peer, role)
    ends = case.traffic(peer, role)
    with laboratory.capture(peer, only_ours=True) as wire:
        node.kill()
        node.host.ip("xfrm state flush", "xfrm policy flush")
        assert ping(laboratory.our_host, ends, 2, 1) == 0
        node.start()
        if role == "responder":
            node.begin(case)
        eventually(
            lambda: ping(laboratory.our_host, ends, 1, 1),
            COME_BACK_SECONDS[role],
            lambda: f"no answer; our journal: {laboratory.stockade.reasons()[-12:]}",
        )
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})


def our_killed_agent_comes_back(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGKILL and start: nothing of ours leaves in clear meanwhile, and the peer reaches us again without any
    dead-peer detection of its own."""
    stockade = laboratory.stockade
    bring_up(laboratory, case, peer, role)
    ours, theirs = ends = case.traffic(peer, role)
    with laboratory.capture(peer, only_ours=True) as wire:
        stockade.kill()
        ping(laboratory.our_host, ends, 3, 1)  # a kernel's SAs may carry them, a dead process does not
        stockade.start()
        eventually(
            lambda: ping(laboratory.peers[peer].host, (theirs, ours), 1, 1),
            60,
            lambda: f"{peer} cannot reach us; our journal: {stockade.reasons()[-12:]}",
        )
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def a_stopped_agent_tells_the_peer(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGTERM: the peer has no SA of ours left, nothing of ours is left in the system."""
    stockade = laboratory.stockade
    bring_up(laboratory, case, peer, role)
    try:
        stockade.stop()
        eventually(
            lambda: not laboratory.states(case, peer, role),
            60,
            lambda: f"{peer} kept {laboratory.states(case, peer, role)}",
        )
        with laboratory.capture(peer, only_ours=True) as wire:
            ping(laboratory.our_host, case.traffic(peer, role), 3, 1)  # libreswan goes on to ask for security
            assert wire.tally().protected_clear >= 3, "without a policy all passes"
    finally:
        if not stockade.running:
            stockade.start()


def only_tcp_is_secured(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    ends = ours, theirs = case.traffic(peer, role)
    host = laboratory.peers[peer].host
    with laboratory.capture(peer, only_ours=role == "initiator", protocols=(TCP,)) as wire:
        if role == "responder":
            laboratory.peers[peer].begin(case)
        stream(laboratory.our_host, host, ends, theirs)
        stream(host, laboratory.our_host, (theirs, ours), ours)
        secured = wire.tally().esp
        assert ping(laboratory.our_host, ends, 3) == 3, "what no filter names passes in clear"
        check_sas(laboratory, case, peer, role)
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert tally.other >= 6, tally
    assert secured > 0, tally
    delete(laboratory, case, peer, role)


def the_other_end_deletes(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Not the end that began."""
    bring_up(laboratory, case, peer, role)
    assert ping(laboratory.our_host, case.traffic(peer, role), 3) == 3, "echo requests were lost"
    check_sas(laboratory, case, peer, role)
    address = case.address(peer, role)
    (row,) = laboratory.quick_modes(address)
    spis = {str(row["inbound_spi"]), str(row["outbound_spi"])}
    if role == "responder":
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": address})
    else:
        laboratory.peers[peer].delete(case)

    # libreswan begins anew at once where it began: then there are others
    def theirs() -> list[str]:
        entries = laboratory.states(case, peer, role)
        return [entry for entry in entries if any(f"spi {spi}" in entry for spi in spis)]

    def kept() -> list[object]:
        ours = [entry for entry in laboratory.quick_modes(address) if entry["inbound_spi"] in spis]
        return [*ours, *theirs()]

    eventually(lambda: not kept(), 60, lambda: f"kept: {kept()}")
    laboratory.peers[peer].delete(case)
    eventually(lambda: not laboratory.quick_modes(address), 60, lambda: "the new pair was not deleted")


def another_key_is_refused(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The keys differ: no SA, no packet in clear, and our journal says the likely cause."""
    node = laboratory.peers[peer]
    with laboratory.capture(peer, only_ours=True) as wire:
        try:
            node.begin(case)
        except AssertionError:
            pass
        else:
            raise AssertionError("it came up")
        assert laboratory.quick_modes(case.address(peer, role)) == []
        # The policy has the peer's key too, for other peers: then main mode comes up and serves for nothing.
        reasons = set(laboratory.stockade.reasons()[-12:])
        assert reasons & {"psk-mismatch", "main-mode-does-not-fit"}, reasons
        assert ping(laboratory.our_host, case.traffic(peer, role), 2, 1) == 0
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    node.delete(case)
    laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})


def another_authority_is_refused(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The peer proves itself last, by a certificate under a root that our rule does not name. It believes
    that all is well until our delete comes."""
    node = laboratory.peers[peer]
    log = len(node.log())
    with laboratory.capture(peer, only_ours=True) as wire:
        assert ping(laboratory.our_host, case.traffic(peer, role), 2, 1) == 0
        eventually(
            lambda: "certificate-untrusted" in laboratory.stockade.reasons()[-6:],
            60,
            lambda: f"our journal: {laboratory.stockade.reasons()[-12:]}",
        )
        eventually(
            lambda: re.search("received (DELETE|Delete)", node.log()[log:]),
            60,
            lambda: f"no delete: {node.log()[log:]}",
        )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert laboratory.quick_modes(case.address(peer, role)) == []
    assert laboratory.states(case, peer, role) == []


def a_changed_mapping_is_followed(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The NAT gives the end behind it another port, which says nothing but what its applications say: we
    follow with the SAs that there are, and both ends reach each other whoever is behind it."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    theirs, own = laboratory.peers[peer].host, case.own_address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    (before,) = laboratory.quick_modes(address)
    ways = {
        "initiator": lambda: ping(laboratory.our_host, ends, 1, 1),
        "responder": lambda: ping(theirs, (own, case.our_address(role)), 1, 1),
    }
    with laboratory.capture(peer, only_ours=True) as wire:
        change_mapping(laboratory.nat, case, peer, role)
        for one in (role, *ways):  # the end behind the NAT first
            eventually(
                ways[one], 30, lambda one=one: f"nobody follows: {one}, {laboratory.quick_modes(address)}"
            )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    if role == "responder":  # libreswan does not follow us: there we notice, and make a new pair
        (after,) = laboratory.quick_modes(address)
        assert after["inbound_spi"] == before["inbound_spi"], "a new pair was made"
        (port,) = [int(str(row["peer"]).rsplit(":", 1)[1]) for row in laboratory.main_modes(address)]
        assert port in MAPPED_ANEW, port
    delete(laboratory, case, peer, role)


def the_draft_serves_too(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """As a Windows before Vista we say that we know the draft of NAT traversal and not the RFC."""
    stockade = laboratory.stockade
    try:
        stockade.stop()
        stockade.configure(f"{SETTINGS}microsoft_version = 4\n")
        stockade.start()
        carries_traffic(laboratory, case, peer, role)
    finally:
        stockade.stop()
        stockade.configure(SETTINGS)
        stockade.start()


def no_ip_fragment_passes(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Both ends drop fragments of IP, as many a router does: only IKE's own bring the chain over."""
    ends = laboratory.our_host, laboratory.peers[peer].host
    for end in ends:
        end.drop_fragments(True)
    try:
        carries_traffic(laboratory, case, peer, role)
    finally:
        for end in ends:
            end.drop_fragments(False)


TRIALS: dict[str, Callable[[Laboratory, Case, str, str], None]] = {
    "chain-in-fragments": no_ip_fragment_passes,
    "rekey-by-the-peer": rekeys_lose_nothing,
    "rekey-by-us": we_rekey_by_volume,
    "both-phases-by-us": we_rekey_both_phases,
    "peer-asks-whether-we-live": we_answer_that_we_live,
    "peer-killed": a_killed_peer_comes_back,
    "agent-killed": our_killed_agent_comes_back,
    "agent-stopped": a_stopped_agent_tells_the_peer,
    "tcp-only": only_tcp_is_secured,
    "deleted-by-the-other-end": the_other_end_deletes,
    "another-preshared-key": another_key_is_refused,
    "another-authority": another_authority_is_refused,
    "nat-mapping-changes": a_changed_mapping_is_followed,
    "nat-by-the-draft": the_draft_serves_too,
    "nat-tunnel-by-the-draft": the_draft_serves_too,
}
"""What is tried where it is not `carries_traffic`."""


def all_trials() -> Iterator[str]:
    for case in CASES:
        for peer in PEERS:
            for role in case.roles:
                yield f"{case.name}/{peer}/{role}"


def attempt(laboratory: Laboratory, name: str) -> tuple[str, str]:
    """Outcome and detail of one trial."""
    case_name, peer, role = name.split("/")
    case = BY_NAME[case_name]
    if case.tunnel and not laboratory.tunnels:
        return "we cannot", "our data plane has no tunnel mode here"
    if (why := case.cannot.get(peer) or laboratory.absent.get(peer)) is not None:
        return "cannot", why
    before = len(laboratory.peers[peer].log())
    try:
        TRIALS.get(case_name, carries_traffic)(laboratory, case, peer, role)
    except Exception:
        detail = [traceback.format_exc(), f"-- {peer}", laboratory.peers[peer].log()[before:][-6000:]]
        detail += ["-- ours", laboratory.stockade.output()[-6000:]]
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})
        laboratory.peers[peer].delete(case)
        return "failed", "\n".join(detail)
    return "passed", ""

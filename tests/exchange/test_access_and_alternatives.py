"""After authentication: access lists. Before it: several pre-shared keys, and Kerberos that may not work.

Kerberos is played by a stand-in here, so that a virtual clock can say when a ticket comes; the real one is in
tests/host."""

import hashlib
import hmac
from dataclasses import dataclass, replace

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Policy,
    assert_matching,
    deliver,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import Perform, Performed, ReportKind, perform
from stockade.model.negotiation import Kerberos, Negotiation, PresharedKey
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.pki.access import AccessEntry, AccessKind, AccessList
from stockade.wire.isakmp.constants import PayloadType


def keys(*words: bytes) -> Negotiation:
    return replace(negotiation(), authentication=tuple(PresharedKey(Secret(word)) for word in words))


def allow(kind: AccessKind, name: str, rule: str = "") -> AccessEntry:
    return AccessEntry(True, kind, name, rule)


# ---- several pre-shared keys
@pytest.mark.parametrize("position", [0, 1, 4, 15])
def test_a_responder_tries_each_of_its_keys(position: int) -> None:
    words = [b"key %d" % number for number in range(16)]
    network, alpha, beta = two_hosts(keys(words[position]), keys(*words))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    with_one, *hosts = two_hosts()
    established(with_one, *hosts)
    assert len(network.sent) == len(with_one.sent)


def test_a_responder_tries_no_more_keys_than_it_says() -> None:
    """What a stranger can make us compute is bounded."""
    words = [b"key %d" % number for number in range(17)]
    network, alpha, beta = two_hosts(keys(words[16]), keys(*words))
    network.command(alpha, alpha.acquire(BETA))
    network.run(40)
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert not beta.sas


def test_an_initiator_finds_the_fourth_key_and_begins_with_it_from_then_on() -> None:
    rule, other = keys(b"one", b"two", b"three", b"four"), keys(b"four")
    rule = replace(rule, main_mode=replace(rule.main_mode, lifetime_seconds=600))
    network, alpha, beta = two_hosts(rule, other)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(30, pairs_up(alpha, beta)), alpha.reports
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH] * 3
    again = lambda: len(alpha.reported(ReportKind.MAIN_MODE_ESTABLISHED)) == 2  # noqa: E731
    assert network.run(600, again), "it is made anew before its end"
    assert len(alpha.reported(ReportKind.MAIN_MODE_FAILED)) == 3, "and no wrong key is tried for that"


def test_the_lifetime_is_that_of_the_rule_whose_key_the_peer_has() -> None:
    network, alpha, beta = two_hosts(keys(b"second"))
    first, second = keys(b"first"), keys(b"second")
    second = replace(
        second, name="local/test/second", main_mode=replace(second.main_mode, lifetime_seconds=600)
    )
    beta.policy.rule = second
    beta.policy.for_peer = lambda local, peer: (first, second)  # type: ignore[method-assign]
    established(network, alpha, beta)
    (view,) = beta.engine.main_modes(network.now)
    assert view.age + view.remaining == pytest.approx(600)


def test_an_initiator_goes_on_to_its_next_key() -> None:
    network, alpha, beta = two_hosts(keys(b"old", b"new"), keys(b"new"))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(8, pairs_up(alpha, beta)), alpha.reports
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert_matching(alpha, beta)


def test_when_no_key_fits_the_packet_hears_the_reason() -> None:
    network, alpha, beta = two_hosts(keys(b"one", b"two"), keys(b"three", b"four"))
    network.command(alpha, alpha.acquire(BETA))
    network.run(20)
    failed = alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert [report.reason.code for report in failed] == [ReasonCode.PSK_MISMATCH] * 2
    assert [report.filter_id for report in failed] == ["", "f0"]
    assert not alpha.sas
    assert not beta.sas


def test_another_rules_key_does_not_open_this_rules_traffic() -> None:
    network, alpha, beta = two_hosts(keys(b"first"), keys(b"first", b"second"))
    established(network, alpha, beta)
    beta.policy.rule = keys(b"second")
    beta.engine.set_lookup(beta.policy, network.now)
    assert not [view for view in beta.engine.main_modes(network.now) if view.established]


# ---- access lists
@pytest.mark.parametrize("denier", ["initiator", "responder"])
def test_a_peer_that_no_entry_allows_gets_no_sa(denier: str) -> None:
    network, alpha, beta = two_hosts()
    host = alpha if denier == "initiator" else beta
    host.engine.set_access(AccessList((allow(AccessKind.COMPUTER, "10.9.0.77"),)), network.now)
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    (report,) = host.reported(ReportKind.MAIN_MODE_FAILED)
    assert report.reason.code is ReasonCode.ACCESS_DENIED
    assert "allow computer 10.9.0.77" in report.reason.detail
    assert not alpha.sas
    assert not beta.sas


def test_an_allowed_peer_connects_and_a_later_denial_cuts_it_off() -> None:
    network, alpha, beta = two_hosts()
    allowed = AccessList((allow(AccessKind.COMPUTER, str(ALPHA)),))
    beta.engine.set_access(allowed, network.now)
    established(network, alpha, beta)
    denial = AccessEntry(False, AccessKind.COMPUTER, "10.9.0.*")
    beta.engine.set_access(AccessList((*allowed.entries, denial)), network.now)
    network.run(1)
    assert not beta.sas
    assert not alpha.sas
    assert ReasonCode.ACCESS_DENIED in beta.codes(ReportKind.MAIN_MODE_DELETED)


@pytest.mark.parametrize("denier", ["initiator", "responder"])
def test_a_rule_of_its_own_may_allow_less(denier: str) -> None:
    network, alpha, beta = two_hosts()
    host = alpha if denier == "initiator" else beta
    host.engine.set_access(AccessList((allow(AccessKind.GROUP, "servers", "rule"),)), network.now)
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    assert len([view for view in host.engine.main_modes(network.now) if view.established]) == 1
    assert not alpha.sas
    assert not beta.sas
    groups = {"servers": ("10.9.0.*",)}
    host.engine.set_access(AccessList((allow(AccessKind.GROUP, "servers", "rule"),), groups), network.now)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta)), host.reports


# ---- Kerberos
KEY = b"the session key that a controller gave both"


@dataclass
class StandIn:
    """A `GssSource`: the token names its sender, and `wrap` signs with one key for all."""

    name: str
    refusal: Reason | None = None
    mutual: bool = True

    def own_name(self) -> str | Reason:
        return self.name

    def initiate(self, peer: str) -> "StandInContext":
        if self.refusal is not None:
            raise error_for(self.refusal.code, self.refusal.detail)
        return StandInContext(self.name.encode() + b" wants " + peer.encode(), peer)

    def accept(self, token: bytes) -> "StandInContext":
        sender, _, target = token.partition(b" wants ")
        if target.decode() != self.name:
            raise error_for(ReasonCode.KERBEROS_REFUSED, "a ticket for somebody else")
        return StandInContext(b"I am " + self.name.encode(), sender.decode())


@dataclass
class StandInContext:
    token: bytes
    peer: str
    groups: tuple[str, ...] = ()
    groups_unknown: str = ""

    def complete(self, token: bytes) -> None:
        if token != b"I am " + self.peer.encode():
            raise error_for(ReasonCode.KERBEROS_REFUSED, "another peer's token")

    def wrap(self, data: bytes) -> bytes:
        return data + hmac.digest(KEY, data, hashlib.sha256)

    def unwrap(self, data: bytes) -> bytes:
        if hmac.digest(KEY, data[:-32], hashlib.sha256) != data[-32:]:
            raise error_for(ReasonCode.KERBEROS_REFUSED, "sealed with another key")
        return data[:-32]


class KerberosNode(Node):
    """Its tickets come `delay` seconds after they are asked for (None: never)."""

    delay: float | None = 0.0

    def __init__(self, address: object, rule: Negotiation, source: StandIn) -> None:
        super().__init__(address, Policy(rule), 0, EXACT, None)  # type: ignore[arg-type]
        self.engine._context.kerberos = source
        self.pending: list[Performed] = []

    def apply(self, effect: object) -> None:
        if isinstance(effect, Perform):
            self.pending.append(perform(effect))
        else:
            super().apply(effect)  # type: ignore[arg-type]


def kerberos_hosts(**options: object) -> tuple[Network, KerberosNode, KerberosNode]:
    rule = replace(negotiation(), authentication=options.get("methods", (Kerberos(),)))
    alpha = KerberosNode(ALPHA, rule, StandIn("host/alpha@LAB", options.get("refusal")))  # type: ignore[arg-type]
    beta = KerberosNode(BETA, rule, StandIn("host/beta@LAB"))
    return Network([alpha, beta]), alpha, beta


def run(network: Network, seconds: float, *nodes: KerberosNode, work: bool = True) -> None:
    """Let time pass in small steps; tasks are answered between them."""
    end = network.now + seconds
    while network.now < end:
        network.run(0.05)
        for node in nodes if work else ():
            while node.pending:
                network.command(node, node.pending.pop(0))


def test_kerberos_proves_both_principals() -> None:
    network, alpha, beta = kerberos_hosts()
    network.command(alpha, alpha.acquire(BETA))
    run(network, 2, alpha, beta)
    assert_matching(alpha, beta)
    for node, peer in ((alpha, "host/beta@LAB"), (beta, "host/alpha@LAB")):
        (view,) = node.engine.main_modes(network.now)
        assert (str(view.peer_identity), view.authentication) == (peer, "kerberos")


def test_access_by_kerberos_domain_and_computer() -> None:
    for entry, admitted in (
        (allow(AccessKind.DOMAIN, "lab"), True),
        (allow(AccessKind.COMPUTER, "alpha"), True),
        (allow(AccessKind.COMPUTER, "gamma"), False),
        (AccessEntry(False, AccessKind.DOMAIN, "LAB"), False),
        (allow(AccessKind.CA, "CN=Root"), False),
    ):
        network, alpha, beta = kerberos_hosts()
        beta.engine.set_access(AccessList((entry,)), network.now)
        network.command(alpha, alpha.acquire(BETA))
        run(network, 2, alpha, beta)
        assert bool(beta.sas) is admitted, str(entry)


def test_while_a_ticket_is_awaited_nothing_is_sent_again_and_then_it_fails() -> None:
    network, alpha, beta = kerberos_hosts()
    network.command(alpha, alpha.acquire(BETA))
    run(network, EXACT.task_seconds + 2, alpha, beta, work=False)
    assert len(network.sent) == 2
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.KERBEROS_UNREACHABLE]
    (answer,) = alpha.pending
    network.command(alpha, answer)  # much too late
    assert len(network.sent) == 2


def test_without_a_ticket_the_next_method_is_tried() -> None:
    both = (Kerberos(), PresharedKey(Secret(b"a key")))
    refusal = Reason.of(ReasonCode.KERBEROS_NO_TICKET, "unknown")
    network, alpha, beta = kerberos_hosts(methods=both, refusal=refusal)
    network.command(alpha, alpha.acquire(BETA))
    run(network, 2, alpha, beta)
    assert_matching(alpha, beta)
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.KERBEROS_NO_TICKET]
    assert {view.authentication for view in alpha.engine.main_modes(network.now)} == {"preshared-key"}


def test_names_and_tokens_are_part_of_what_is_proved() -> None:
    """A token or a name that is changed on the way makes HASH another one."""
    for marker, replacement in ((b"I am host/beta", b"I am host/gamm"), ("LAB".encode("utf-16-le"),) * 2):
        network, alpha, beta = kerberos_hosts()

        def fate(packet, marker=marker, replacement=replacement):  # type: ignore[no-untyped-def]
            data = packet.send.datagram
            if marker != replacement:
                data = data.replace(marker, replacement)
            elif packet.number == 1:
                data = data.replace(marker, "LAX".encode("utf-16-le"))
            return [(delay, data) for delay, _ in deliver(packet)]

        network.fate = fate
        network.command(alpha, alpha.acquire(BETA))
        run(network, 8, alpha, beta)
        assert not alpha.sas
        assert not beta.sas


def test_message_3_without_a_token_is_refused() -> None:
    network, alpha, beta = kerberos_hosts()
    network.command(alpha, alpha.acquire(BETA))
    beta_codes = beta.codes
    network.fate = lambda packet: [
        (delay, _without_token(data)) if packet.number == 3 else (delay, data)
        for delay, data in deliver(packet)
    ]
    run(network, 0.5, alpha, beta)
    assert ReasonCode.UNEXPECTED_MESSAGE in beta_codes(ReportKind.MESSAGE_REFUSED)
    assert not beta.sas


def _without_token(datagram: bytes) -> bytes:
    """Calls the token payload by a number that nobody knows."""
    body, position, kind = bytearray(datagram), 28, datagram[16]
    while kind:
        following = body[position]
        if following == PayloadType.GSS:
            body[position] = 200
        kind, position = body[position], position + int.from_bytes(body[position + 2 : position + 4], "big")
    return bytes(body)

"""The kernel driver over a kernel of paper: what it asks for, what it leaves alone, what it does when
refused. With a real kernel it is tried in tests/kernel."""

import errno
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType

import pytest

from stockade.driver.contract import Acquire, Driver, PeerMoved, SaExpired, SaIdle, prepare_with
from stockade.driver.kernel import driver as driver_module
from stockade.driver.kernel import filters as filters_module
from stockade.driver.kernel import looks as looks_module
from stockade.driver.kernel import offload as offload_module
from stockade.driver.kernel import orphans as orphans_module
from stockade.driver.kernel import policies, sas
from stockade.driver.kernel import tables as tables_module
from stockade.driver.kernel.driver import KernelDriver
from stockade.driver.kernel.ledger import Ledger, key_of
from stockade.driver.kernel.offload import HardwareOffload
from stockade.driver.kernel.policies import OWNER, filter_id_of
from stockade.driver.netlink import NetlinkError
from stockade.model.addresses import AddressRange
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import CallerError, HostError, Reason, ReasonCode
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import Flow, TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire.netlink import NetlinkMessage
from stockade.wire.xfrm import (
    INFINITY,
    Acquired,
    Expired,
    Limits,
    Mapped,
    MessageType,
    Offload,
    OffloadFlag,
    Policy,
    PolicyAction,
    PolicyDirection,
    State,
    StateFlag,
    Usage,
    XfrmMode,
    XfrmSelector,
)
from stockade.wire.xfrm_decode import (
    decode_policy,
    decode_state,
)

US, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
EVERYTHING = Capabilities(
    "kernel", frozenset(Mode), frozenset(Encryption), frozenset(Hash), True, frozenset({4, 6})
)
SUITE = EspSuite(Encryption.AES_CBC_128, Hash.SHA_256)


class PaperKernel:
    """Policies and states by their ids; each request is kept as (type, key)."""

    def __init__(self) -> None:
        self.policies: dict[bytes, Policy] = {}
        self.states: dict[bytes, State] = {}
        self.requests: list[MessageType] = []
        self.refuse: set[int] = set()
        self.to_say: list[Acquired | Expired | Mapped] = []

    # the netlink socket
    def close(self) -> None: ...

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        kind = MessageType(kind)
        self.requests.append(kind)
        if len(self.requests) in self.refuse:
            raise self._error(kind, errno.ENOBUFS)
        if kind in (MessageType.NEW_POLICY, MessageType.UPDATE_POLICY):
            policy = decode_policy(body)
            key = body[:56] + bytes((policy.direction,))
            if kind is MessageType.NEW_POLICY and key in self.policies:
                raise self._error(kind, errno.EEXIST)
            self.policies[key] = policy
        elif kind is MessageType.DELETE_POLICY:
            if self.policies.pop(body[:56] + body[60:61], None) is None:
                raise self._error(kind, errno.ENOENT)
        elif kind in (MessageType.NEW_SA, MessageType.UPDATE_SA):
            key = body[56:77]
            if (key in self.states) != (kind is MessageType.UPDATE_SA):
                raise self._error(kind, errno.EEXIST if key in self.states else errno.ESRCH)
            self.states[key] = decode_state(body)
        elif self.states.pop(body[:20] + body[22:23], None) is None:
            raise self._error(kind, errno.ESRCH)

    def change_all(self, kind: int, bodies: Sequence[bytes]) -> Iterator[NetlinkError]:
        for body in bodies:
            try:
                self.change(kind, body)
            except NetlinkError as error:
                yield error

    def get(self, kind: int, body: bytes) -> tuple[NetlinkMessage, ...]:
        assert kind in (MessageType.ALLOCATE_SPI, MessageType.GET_SA)
        if kind == MessageType.GET_SA:
            state = self.states.get(body[:20] + body[22:23])
            return () if state is None else (self._state(state),)
        larval = replace(decode_state(body[:224]), spi=0x4242)
        self.states[larval.encode()[56:77]] = larval
        return (self._state(larval),)

    def get_all(self, kind: int, bodies: Sequence[bytes]) -> Iterator[NetlinkMessage]:
        for body in bodies:
            yield from self.get(kind, body)

    def dump(self, kind: int, body: bytes) -> tuple[NetlinkMessage, ...]:
        if kind == MessageType.GET_POLICY:
            of_socket = bytearray(next(iter(self.policies.values())).encode()) if self.policies else b""
            if of_socket:
                of_socket[160] = 4
            found = [policy.encode() for policy in self.policies.values()] + [bytes(of_socket)] * bool(
                of_socket
            )
            return tuple(NetlinkMessage(MessageType.NEW_POLICY, 0, 0, packed) for packed in found)
        return tuple(self._state(state) for state in self.states.values())

    @staticmethod
    def _state(state: State) -> NetlinkMessage:
        body = bytearray(state.encode())
        usage = state.usage
        for at, number in zip((160, 168, 176, 184), (usage.bytes, usage.packets, 0, 0), strict=True):
            body[at : at + 8] = number.to_bytes(8, "little")
        return NetlinkMessage(MessageType.NEW_SA, 0, 0, bytes(body))

    @staticmethod
    def _error(kind: MessageType, number: int) -> NetlinkError:
        error = NetlinkError(Reason.of(ReasonCode.DRIVER_FAILED, f"netlink request {kind:d}", errno=number))
        error.number = number
        return error

    # the listener
    def fileno(self) -> int:
        return self.pipe[0]

    def read(self) -> Iterator[Acquired | Expired | Mapped]:
        while self.to_say:
            yield self.to_say.pop(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperKernel]:
    import os

    paper = PaperKernel()
    paper.pipe = os.pipe()
    monkeypatch.setattr(tables_module, "NetlinkSocket", lambda family: paper)
    monkeypatch.setattr(driver_module, "Listener", lambda: paper)
    monkeypatch.setattr(driver_module.probe, "esp_refusal", lambda: None)
    monkeypatch.setattr(driver_module.probe, "kernel_capabilities", lambda: EVERYTHING)
    for name in ("Claim.take", "Settings.apply"):
        kind, method = name.split(".")
        monkeypatch.setattr(getattr(driver_module, kind), method, lambda self: None)
    monkeypatch.setattr(looks_module, "read_refusals", dict)
    yield paper
    for number in paper.pipe:
        os.close(number)


@pytest.fixture
def driver(kernel: PaperKernel) -> Iterator[KernelDriver]:
    started = KernelDriver()
    started.start()
    yield started
    started.stop()


def table(*actions: Action) -> FilterTable:
    """One outbound and one inbound filter for each action, on ports 1, 2 …"""
    selectors = [
        TrafficSelector(AddressRange.host(US), AddressRange.host(PEER), 6, 0, port + 1)
        for port in range(len(actions))
    ]
    negotiation = Negotiation(
        "rule", MainModePolicy(), QuickModePolicy((QuickModeProposal(SUITE),)), (PresharedKey(Secret(b"x")),)
    )
    return FilterTable(
        tuple(
            make_filter(
                selector if direction is Direction.OUTBOUND else selector.reversed(),
                direction,
                action,
                9,
                Provenance("local", "policy", "a rule"),
                negotiation="rule" if action is Action.NEGOTIATE else None,
            )
            for action, selector in zip(actions, selectors, strict=True)
            for direction in Direction
        ),
        MappingProxyType({"rule": negotiation}),
    )


def sa(direction: Direction = Direction.OUTBOUND, spi: int = 0x1000, **fields: object) -> SecurityAssociation:
    ends = (US, PEER) if direction is Direction.OUTBOUND else (PEER, US)
    common: dict = {
        "selector": TrafficSelector(*(AddressRange.host(end) for end in ends), 6),
        "mode": Mode.TRANSPORT,
        "esp": SUITE,
        "ah": None,
        "encryption_key": Secret(bytes(16)),
        "integrity_key": Secret(bytes(32)),
        "pair": spi ^ 1,
        "negotiation": "rule",
        "filter_id": table(Action.NEGOTIATE).filters[0].id,
        "main_mode": "",
    }
    return SecurityAssociation(spi, direction, *ends, **{**common, **fields})


def test_it_is_a_driver_that_prepares_sockets(driver):
    as_driver: Driver = driver
    assert prepare_with(as_driver) == driver.prepare_ike_socket
    assert driver.fileno() >= 0


def test_a_table_is_installed_as_a_difference_and_taken_out_whole(driver, kernel):
    driver.install_filters(table(Action.NEGOTIATE, Action.BLOCK))
    assert kernel.requests == [MessageType.NEW_POLICY] * 4
    driver.install_filters(table(Action.NEGOTIATE, Action.BLOCK))
    assert len(kernel.requests) == 4, "nothing to do"
    driver.install_filters(table(Action.NEGOTIATE, Action.PERMIT))
    assert kernel.requests[4:] == [MessageType.UPDATE_POLICY] * 2
    driver.stop()
    assert kernel.policies == {}


def test_one_filter_of_thousands_is_one_request(driver, kernel, monkeypatch):
    def many(numbers) -> FilterTable:
        selectors = (
            TrafficSelector(AddressRange.everything(), AddressRange.host(f"10.0.{n >> 8}.{n & 255}"))
            for n in numbers
        )
        return FilterTable(
            tuple(
                make_filter(selector, Direction.OUTBOUND, Action.BLOCK, 1, Provenance("local", "p", "r"))
                for selector in selectors
            )
        )

    driver.install_filters(many(range(1000)))
    assert len(kernel.requests) == 1000
    whole = []
    monkeypatch.setattr(policies, "policies_of", lambda *given: whole.append(given))
    driver.install_filters(many([*range(500), 5000, *range(500, 1000)]))
    assert kernel.requests[1000:] == [MessageType.NEW_POLICY]
    driver.install_filters(many([*range(500), 5000, *range(501, 1000)]))
    assert kernel.requests[1001:] == [MessageType.DELETE_POLICY]
    monkeypatch.undo()
    assert not whole
    assert len(kernel.policies) == 1000
    before = [
        policy.selector for policy in sorted(kernel.policies.values(), key=lambda policy: policy.priority)
    ]
    expected = policies.policies_of(driver._filters.table, {}, driver.capabilities)
    assert before == [policy.selector for policy in expected]


def test_what_is_not_ours_stays(driver, kernel):
    foreign = Policy(
        XfrmSelector(*(next(AddressRange.everything(4).networks()) for _ in range(2))),
        PolicyDirection.OUT,
        PolicyAction.BLOCK,
        1,
    )
    kernel.change(MessageType.NEW_POLICY, foreign.encode())
    other = State(None, US, PEER, 0x7777, 50, 1, XfrmMode.TRANSPORT)
    kernel.change(MessageType.NEW_SA, other.encode())
    driver.install_filters(table(Action.BLOCK))
    driver.add_sa(sa())
    driver.stop()
    assert list(kernel.policies.values()) == [foreign]
    assert [state.spi for state in kernel.states.values()] == [0x7777]


def test_the_same_policy_of_another_program_is_an_error_and_stays(driver, kernel):
    wanted = table(Action.BLOCK)
    driver.install_filters(wanted)
    (theirs, *_) = [replace(policy, limits=Limits(), priority=3) for policy in kernel.policies.values()]
    driver.stop()
    kernel.change(MessageType.NEW_POLICY, theirs.encode())
    again = KernelDriver()
    again.start()
    with pytest.raises(HostError, match="another program"):
        again.install_filters(wanted)
    assert list(kernel.policies.values()) == [theirs]
    again.stop()


def test_a_refused_change_brings_the_old_table_back(driver, kernel):
    driver.install_filters(table(Action.NEGOTIATE, Action.BLOCK))
    before = {key: (policy.action, policy.templates) for key, policy in kernel.policies.items()}
    for failing in (5, 6, 7):
        kernel.refuse = {len(kernel.requests) + failing - 4}
        with pytest.raises(HostError):
            driver.install_filters(table(Action.PERMIT, Action.PERMIT, Action.BLOCK))
        assert before == {key: (policy.action, policy.templates) for key, policy in kernel.policies.items()}


def test_a_killed_run_leaves_policies_that_the_next_takes_over(driver, kernel):
    wanted = table(Action.NEGOTIATE)
    driver.install_filters(wanted)
    driver.add_sa(sa())
    driver.add_sa(sa(Direction.INBOUND, 0x1001))
    after = KernelDriver()  # and `driver` was killed
    after.start()
    requests = len(kernel.requests)
    after.install_filters(wanted)
    assert len(kernel.requests) == requests, "all of it is there"
    assert len(kernel.states) == 2, "traffic goes on"
    after.add_sa(sa(spi=0x2000))
    for orphan in after._orphans._orphans.values():
        assert orphan.end - driver_module.time.monotonic() <= orphans_module.HANDOVER_SECONDS
        orphan.end = 0.0
    after._looks._next_look = 0.0
    after.events()
    assert [state.spi for state in kernel.states.values()] == [0x2000]
    after.stop()


def survivors_of(kernel, path, wanted) -> tuple[KernelDriver, list[tuple[int, Direction]]]:
    after = KernelDriver(path)
    after.start()
    after.install_filters(wanted)
    return after, [(one.sa.spi, one.sa.direction) for one in after.survivors()]


class Card:
    """A kernel that refuses SAs for cards, or takes them."""

    def __init__(self, kernel: PaperKernel, monkeypatch: pytest.MonkeyPatch, *, takes: bool) -> None:
        self.asked: list[State] = []
        change = kernel.change

        def ask(kind: int, body: bytes, flags: int = 0) -> None:
            if kind in (MessageType.NEW_SA, MessageType.UPDATE_SA):
                self.asked.append(decode_state(body))
                if self.asked[-1].offload is not None and not takes:
                    raise kernel._error(MessageType(kind), errno.EINVAL)
            change(kind, body, flags)

        monkeypatch.setattr(kernel, "change", ask)


@pytest.mark.parametrize("takes", [True, False])
def test_an_sa_is_offered_to_a_card_and_stays_with_the_kernel_where_it_is_refused(kernel, monkeypatch, takes):
    card = Card(kernel, monkeypatch, takes=takes)
    monkeypatch.setattr(offload_module, "esp_devices", lambda: ("eth7",))
    driver = KernelDriver()
    driver.start()
    driver.add_sa(sa(Direction.INBOUND, 0x1001))
    driver.add_sa(sa())
    wanted = {0x1001: Offload(0, OffloadFlag.INBOUND), 0x1000: Offload(0, OffloadFlag(0))}
    assert {state.spi: state.offload for state in card.asked if state.offload is not None} == wanted
    has = {state.spi: state.offload for state in kernel.states.values()}
    assert has == (wanted if takes else dict.fromkeys(wanted))
    assert driver.statistics().offloaded_sas == (2 if takes else 0)
    driver.stop()


@pytest.mark.parametrize(
    ("options", "hardware", "devices", "expected"),
    [
        ({}, True, ("eth7",), True),
        ({}, True, (), False),
        ({}, False, ("eth7",), False),
        ({"udp": UdpEncapsulation(4500, 4500)}, True, ("eth7",), False),
        ({"esp": None, "ah": Hash.SHA_256, "encryption_key": None}, True, ("eth7",), False),
    ],
    ids=["plain", "no-card", "switched-off", "udp", "ah"],
)
def test_only_bare_esp_is_offered_to_cards(options, hardware, devices, expected):
    offload = HardwareOffload(wanted=hardware, devices=lambda: devices)
    assert (offload.of(sa(**options)) is not None) is expected


def test_the_features_of_every_device_here_can_be_asked():
    names = {name for _, name in socket.if_nameindex()}
    assert set(offload_module.esp_devices()) <= names
    assert "tx-checksum-ip-generic" in offload_module._features("lo")
    assert offload_module._features("no-such-dev") == frozenset()


@pytest.fixture
def killed(kernel, tmp_path):
    """A driver with a pair of SAs, that nobody stopped; its table and the ledger."""
    path, wanted = tmp_path / "kernel-sas", table(Action.NEGOTIATE)
    driver = KernelDriver(path)
    driver.start()
    driver.install_filters(wanted)
    driver.add_sa(sa(Direction.INBOUND, 0x1001))
    driver.add_sa(sa())
    driver.add_sa(sa(spi=0x3000))
    driver.remove_sa(0x3000, Direction.OUTBOUND, PEER)
    yield driver, path, wanted
    driver._let_go()


def test_sas_that_a_stop_did_not_come_to_are_ended_without_an_agent_and_filters_stay(kernel, killed):
    """systemd killed the agent while it stopped: `stockade agent end` comes after it."""
    driver, path, _ = killed
    driver._let_go()
    installed = dict(kernel.policies)
    KernelDriver(path).stop(keep_filters=True)
    assert kernel.states == {}
    assert kernel.policies == installed
    assert not path.exists()


def test_an_sa_that_the_kernel_does_not_remove_keeps_no_other_and_is_told(driver, kernel):
    for spi in (0x3000, 0x3001, 0x3002):
        driver.add_sa(sa(spi=spi))
    kernel.refuse = {len(kernel.requests) + 2}
    with pytest.raises(HostError):
        driver.stop()
    assert len(kernel.states) == 1


def test_the_next_driver_knows_what_the_sas_in_the_kernel_are(kernel, killed):
    _, path, wanted = killed
    before = dict(kernel.states)
    after, found = survivors_of(kernel, path, wanted)
    assert set(found) == {(0x1001, Direction.INBOUND), (sa().spi, Direction.OUTBOUND)}
    assert kernel.states == before, "not touched: keys and numbers go on"
    assert {entry.spi for entry in after.statistics().sas} == {0x1001, sa().spi}
    assert not after.survivors(), "once"
    # and they are ours now
    after.remove_sa(0x1001, Direction.INBOUND, PEER)
    assert [state.spi for state in kernel.states.values()] == [sa().spi]
    after._let_go()
    third, found = survivors_of(kernel, path, wanted)
    assert found == [(sa().spi, Direction.OUTBOUND)]
    third.stop()
    assert not path.exists()
    assert not kernel.states


def test_a_driver_that_dies_before_it_has_asked_loses_nothing(kernel, killed):
    _, path, wanted = killed
    between = KernelDriver(path)
    between.start()
    between._let_go()
    after, found = survivors_of(kernel, path, wanted)
    assert len(found) == 2
    after.stop()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "garbage", "another"])
def test_what_no_record_tells_of_is_ended(kernel, killed, damage):
    _, path, wanted = killed
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "another":  # a record about the same SPI, of another peer's SA
        path.write_bytes(content.replace(b"10.0.0.2", b"10.0.0.3"))
    else:
        path.write_bytes({"empty": b"", "cut": content[:40], "garbage": b"\xff" * 4000}[damage])
    after, found = survivors_of(kernel, path, wanted)
    assert not found
    assert not kernel.states
    after.stop()


def test_a_state_of_another_rule_is_ended(kernel, killed):
    _, path, wanted = killed
    for key, state in list(kernel.states.items()):
        kernel.states[key] = replace(state, request_id=state.request_id + 1)
    after, found = survivors_of(kernel, path, wanted)
    assert not found
    assert not kernel.states
    after.stop()


def test_a_ledger_has_no_keys_and_does_not_grow(tmp_path):
    path = tmp_path / "kernel-sas"
    one = replace(sa(), encryption_key=Secret(b"KEYKEYKEYKEYKEYK"), integrity_key=Secret(b"KEY" * 11))
    ledger = Ledger(path)
    ledger.begin({})
    ledger.add(one, 5.0)
    assert b"KEY" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    single = path.stat().st_size
    for _ in range(3000):
        ledger.add(sa(spi=0x9999), 6.0)
        ledger.remove(key_of(sa(spi=0x9999)))
    assert path.stat().st_size < 1200 * single
    ((found, installed),) = Ledger(path).read().values()
    assert (found.spi, found.selector, installed) == (one.spi, one.selector, 5.0)
    ledger.end()
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_cannot_be_kept_is_no_fault(tmp_path):
    for path in (None, tmp_path / "no folder" / "file"):
        ledger = Ledger(path)
        ledger.begin({})
        ledger.add(sa(), 1.0)
        ledger.remove(key_of(sa()))
        assert not ledger.read()
        ledger.end()


def test_keeping_the_filters_keeps_nothing_open(driver, kernel):
    driver.install_filters(table(Action.NEGOTIATE))
    driver.add_sa(sa())
    driver.stop(keep_filters=True)
    assert kernel.states == {}
    assert len(kernel.policies) == 2


def test_an_sa_has_what_the_negotiation_gave_it(driver, kernel):
    driver.install_filters(table(Action.NEGOTIATE))
    (policy, *_) = kernel.policies.values()
    driver.add_sa(
        sa(
            Direction.INBOUND,
            lifetime=Lifetime(1.2, 5, 1000, 2000),
            replay_window=128,
            udp=UdpEncapsulation(4500, 61000),
        )
    )
    (state,) = kernel.states.values()
    assert (state.source, state.destination, state.spi, state.protocol) == (PEER, US, 0x1000, 50)
    assert state.request_id == policy.templates[0].request_id
    assert state.limits == Limits(1000, 2000, 0xF000_0000, OWNER, 2, 5)
    assert state.window == 128
    assert (state.encryption.name, state.integrity.name) == ("cbc(aes)", "hmac(sha256)")
    assert state.integrity.icv_bits == 128
    assert (state.encapsulation.source_port, state.encapsulation.destination_port) == (4500, 61000)
    assert str(state.selector.source) == "10.0.0.2/32"
    assert state.selector.protocol == 6
    driver.add_sa(sa(esp=None, ah=Hash.SHA1, spi=0x5000, encryption_key=Secret(b"")))
    outbound = list(kernel.states.values())[-1]
    assert (outbound.protocol, outbound.encryption, outbound.window) == (51, None, 0)
    assert outbound.flags == StateFlag.ALIGN_4, "AH in IPv4 is padded to 4 bytes, as everybody else does"
    assert not state.flags
    assert outbound.limits.hard_bytes == INFINITY


def test_extended_sequence_numbers_are_a_flag_and_a_window_in_both_directions(driver, kernel, monkeypatch):
    has = replace(EVERYTHING, extended_sequence=True)
    monkeypatch.setattr(type(driver), "capabilities", property(lambda self: has))
    driver.add_sa(sa(Direction.INBOUND, spi=0x5001, replay_window=4096, extended_sequence=True))
    driver.add_sa(sa(Direction.OUTBOUND, spi=0x5002, extended_sequence=True))
    into, out = kernel.states.values()
    assert into.flags == out.flags == StateFlag.EXTENDED_SEQUENCE
    assert (into.window, out.window) == (4096, 32)
    assert into.limits.soft_packets == INFINITY


def test_extended_sequence_numbers_that_a_kernel_lacks_are_refused(driver, kernel):
    with pytest.raises(CallerError, match="no extended sequence numbers"):
        driver.add_sa(sa(Direction.INBOUND, extended_sequence=True))
    assert not kernel.states


def test_a_reserved_spi_becomes_the_sa_and_none_is_used_twice(driver, kernel):
    spi = driver.get_spi(US, PEER)
    assert [state.spi for state in kernel.states.values()] == [spi]
    driver.add_sa(sa(Direction.INBOUND, spi))
    assert kernel.requests[-1] is MessageType.UPDATE_SA
    with pytest.raises(CallerError) as refusal:
        driver.add_sa(sa(Direction.INBOUND, spi))
    assert refusal.value.reason.code is ReasonCode.DRIVER_LACKS
    driver.remove_sa(spi, Direction.INBOUND, PEER)
    driver.remove_sa(spi, Direction.INBOUND, PEER)
    assert kernel.states == {}


def test_what_this_kernel_lacks_is_refused_before_anything_changes(driver, kernel):
    driver._capabilities = replace(EVERYTHING, encryptions=frozenset({Encryption.AES_GCM_128}))
    with pytest.raises(CallerError) as refusal:
        driver.install_filters(table(Action.NEGOTIATE))
    assert refusal.value.reason.code is ReasonCode.DRIVER_LACKS
    with pytest.raises(CallerError):
        driver.add_sa(sa())
    assert kernel.requests == []


def test_events_name_filter_and_sa(driver, kernel):
    wanted = table(Action.NEGOTIATE)
    driver.install_filters(wanted)
    outbound = next(policy for policy in kernel.policies.values() if policy.direction is PolicyDirection.OUT)
    packet = XfrmSelector(*(next(AddressRange.host(end).networks()) for end in (US, PEER)), 6, 1234, 1)
    kernel.to_say = [Acquired(US, PEER, packet, outbound, (), 0)] * 3
    assert driver.events() == [Acquire(filter_id_of(outbound), Flow(US, PEER, 6, 1234, 1))], "once a second"
    foreign = replace(outbound, limits=Limits())
    kernel.to_say = [Acquired(PEER, US, packet, foreign, (), 0)]
    assert driver.events() == []

    driver.add_sa(sa())
    (state,) = kernel.states.values()
    kernel.to_say = [Expired(state, False)]
    assert driver.events() == [SaExpired(0x1000, Direction.OUTBOUND, False, PEER)]
    gone = replace(state, usage=Usage(bytes=900, packets=9))
    kernel.states.clear()
    kernel.to_say = [Expired(gone, True), Expired(gone, True)]
    assert driver.events() == [SaExpired(0x1000, Direction.OUTBOUND, True, PEER)]
    statistics = driver.statistics()
    assert statistics.sas == ()
    (counted,) = statistics.filters
    assert (counted.packets, counted.bytes) == (9, 900), "what an SA carried outlives it"
    (ended,) = statistics.ended
    assert (ended.direction, ended.packets, ended.bytes) == (Direction.OUTBOUND, 9, 900)


def test_idle_pairs_are_told_once_and_lost_expiries_are_noticed(driver, kernel):
    driver.install_filters(table(Action.NEGOTIATE))
    driver.add_sa(sa(Direction.INBOUND, 0x1001, idle_seconds=300.0))
    driver.add_sa(sa(idle_seconds=300.0))
    for entry in driver._sas:
        entry.installed -= 400
        entry.used -= 400
    carried = next(key for key, state in kernel.states.items() if state.spi == 0x1001)

    def look() -> list:
        driver._looks._next_look = 0.0
        return list(driver.events())

    kernel.states[carried] = replace(kernel.states[carried], usage=Usage(bytes=100, packets=1))
    assert look() == [], "one direction was used just now"
    for entry in driver._sas:
        entry.used -= 400
    assert [type(event) for event in look()] == [SaIdle], "one event for the pair"
    assert look() == []
    del kernel.states[carried]
    assert look() == [SaExpired(0x1001, Direction.INBOUND, True, PEER)]


def test_an_outbound_sa_sends_what_is_held_for_it(driver, kernel):
    """The kernel sends the queue of a policy when the policy is replaced by itself."""
    wanted = table(Action.NEGOTIATE, Action.BLOCK)
    driver.install_filters(wanted)
    outbound = next(found for found in wanted.filters if found.direction is Direction.OUTBOUND)
    before = dict(kernel.policies)
    requests = len(kernel.requests)
    driver.add_sa(sa(Direction.INBOUND, 0x1001, filter_id=outbound.id))
    assert MessageType.UPDATE_POLICY not in kernel.requests[requests:]
    driver.add_sa(sa(filter_id=outbound.id))
    assert kernel.requests[-2:] == [MessageType.NEW_SA, MessageType.UPDATE_POLICY]
    assert kernel.policies == before


def test_loopback_is_permitted_where_ipv6_is_filtered(driver, kernel, monkeypatch):
    own = IPv6Address("fd00::1")
    monkeypatch.setattr(filters_module, "own_ipv6_addresses", lambda: ([own], 1))
    everything = TrafficSelector(AddressRange.everything(6), AddressRange.everything(6))
    driver.install_filters(
        FilterTable(
            tuple(
                make_filter(everything, direction, Action.BLOCK, 1, Provenance("local", "policy", "a rule"))
                for direction in Direction
            )
        )
    )
    ordered = sorted(kernel.policies.values(), key=lambda policy: (policy.direction, policy.priority))
    assert [(policy.action, policy.selector.interface) for policy in ordered] == [
        (PolicyAction.ALLOW, 1),
        (PolicyAction.BLOCK, 0),
        (PolicyAction.ALLOW, 0),
        (PolicyAction.BLOCK, 0),
    ]
    assert str(ordered[2].selector.destination) == "fd00::1/128"


def test_a_nat_that_changed_is_followed_by_both_sas_and_told(
    driver: KernelDriver, kernel: PaperKernel
) -> None:
    driver.install_filters(table(Action.NEGOTIATE))
    driver.add_sa(sa(Direction.INBOUND, 0x1001, udp=UdpEncapsulation(30_001, 4500)))
    driver.add_sa(sa(Direction.OUTBOUND, 0x1000, udp=UdpEncapsulation(4500, 30_001)))
    driver.add_sa(sa(Direction.OUTBOUND, 0x2000, udp=UdpEncapsulation(4500, 30_001)))
    mapped = Mapped(US, 0x1001, 50, PEER, 30_001, PEER, 30_002)
    kernel.to_say = [mapped, mapped]
    assert driver.events() == [PeerMoved(0x1001, PEER, 30_002)]

    def ports() -> dict[int, tuple[int, int]]:
        ways = {state.spi: state.encapsulation for state in kernel.states.values()}
        return {spi: (way.source_port, way.destination_port) for spi, way in ways.items() if way is not None}

    after = {0x1001: (30_002, 4500), 0x1000: (4500, 30_002), 0x2000: (4500, 30_001)}
    assert ports() == after, "the other pair follows when a packet of its own proves it"
    stranger = ip_address("10.0.0.66")
    kernel.to_say = [
        replace(mapped, source=stranger, port=30_003),
        replace(mapped, spi=0x7777, port=30_003),
        replace(mapped, protocol=51, port=30_003),
    ]
    assert driver.events() == []
    assert ports() == after


def test_many_sas_that_go_in_one_round_go_together_and_all_are_counted(driver, kernel):
    for number in range(20):
        driver.add_sa(sa(spi=0x1000 + number))
    for key, state in kernel.states.items():
        kernel.states[key] = replace(state, usage=Usage(bytes=100, packets=1))
    for number in range(20):
        driver.remove_sa(0x1000 + number, Direction.OUTBOUND, PEER)
    assert len(kernel.states) == 20 - sas.SINGLY
    assert [row.packets for row in driver.statistics().ended] == [20]
    assert kernel.states == {}
    driver.events()
    driver.add_sa(sa(spi=0x2000))
    driver.remove_sa(0x2000, Direction.OUTBOUND, PEER)
    assert kernel.states == {}, "one alone goes at once"


@pytest.mark.parametrize("how", ["events", "add_sa", "stop", "leave"])
def test_what_was_to_be_removed_is_gone_before_anything_else_happens(driver, kernel, how):
    for number in range(10):
        driver.add_sa(sa(spi=0x1000 + number))
    for number in range(10):
        driver.remove_sa(0x1000 + number, Direction.OUTBOUND, PEER)
    assert kernel.states
    if how == "add_sa":
        driver.add_sa(sa(spi=0x1000 + 9))
        assert [state.spi for state in kernel.states.values()] == [0x1009]
        return
    getattr(driver, how)()
    assert kernel.states == {}

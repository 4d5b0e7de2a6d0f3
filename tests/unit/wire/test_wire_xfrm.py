"""XFRM messages: their layout octet by octet (linux/xfrm.h), and round trips. The kernel itself is asked in
tests/kernel, with `ip xfrm` as the other reader."""

import sys
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.model.reasons import HostError
from stockade.model.secret import Secret
from stockade.wire.netlink import decode_attributes
from stockade.wire.xfrm import (
    INFINITY,
    Algorithm,
    Attribute,
    Encapsulation,
    Limits,
    Mapped,
    Move,
    Offload,
    OffloadFlag,
    Policy,
    PolicyAction,
    PolicyDirection,
    State,
    StateFlag,
    Template,
    XfrmMode,
    XfrmSelector,
    allocate_spi,
    migrate,
    policy_id,
    state_id,
)
from stockade.wire.xfrm_decode import (
    decode_acquire,
    decode_expire,
    decode_mapping,
    decode_policy,
    decode_policy_statistics,
    decode_sa_statistics,
    decode_state,
)

ONE, OTHER = ip_address("192.0.2.1"), ip_address("198.51.100.2")
SELECTOR = XfrmSelector(ip_network("192.0.2.1/32"), ip_network("198.51.100.0/24"), 6, 0, 443)
SELECTOR_BYTES = bytes.fromhex(
    "c6336400" + "00" * 12  # destination
    + "c0000201" + "00" * 12  # source
    + "01bbffff" + "00000000"  # ports with their masks, destination first
    + "0200" + "1820" + "06" + "000000"  # family, prefix lengths, protocol
    + "00000000" + "00000000"  # interface, user
)  # fmt: skip


def state(**fields: object) -> State:
    common: dict = {
        "selector": SELECTOR,
        "source": ONE,
        "destination": OTHER,
        "spi": 0x01020304,
        "protocol": 50,
        "request_id": 7,
        "mode": XfrmMode.TRANSPORT,
    }
    return State(**{**common, **fields})


def test_a_selector_is_as_the_kernel_has_it():
    assert SELECTOR.encode() == SELECTOR_BYTES


def test_a_state_has_every_field_at_its_place():
    body = state(
        limits=Limits(1, 2, 3, 4, 5, 6, 7, 8),
        window=32,
        flags=StateFlag.NO_ECN,
        encryption=Algorithm("rfc4106(gcm(aes))", Secret(bytes(range(20))), 128, is_aead=True),
    ).encode()
    assert body[:56] == SELECTOR_BYTES
    assert body[56:80] == OTHER.packed + bytes(12) + bytes.fromhex("01020304") + b"\x32" + bytes(3)
    assert body[80:96] == ONE.packed + bytes(12)
    assert body[96:160] == b"".join(number.to_bytes(8, "little") for number in range(1, 9))
    assert body[160:204] == bytes(44)  # usage and statistics are the kernel's
    assert body[204:216] == bytes(4) + b"\x07\0\0\0" + b"\x02\0" + b"\0" + b"\x20"
    assert body[216:224] == b"\x01" + bytes(7)
    (attribute,) = decode_attributes(body[224:]).items()
    assert attribute[0] == Attribute.ALGORITHM_AEAD
    assert attribute[1][:64].rstrip(b"\0") == b"rfc4106(gcm(aes))"
    assert attribute[1][64:] == b"\xa0\0\0\0" + b"\x80\0\0\0" + bytes(range(20))


def test_a_large_window_moves_to_the_extended_structure():
    body = state(window=1024).encode()
    assert body[215] == 0, "the kernel refuses both"
    esn = decode_attributes(body[224:])[Attribute.REPLAY_ESN]
    assert esn[:4] == (32).to_bytes(4, "little")  # words
    assert esn[20:24] == (1024).to_bytes(4, "little")
    assert len(esn) == 24 + 4 * 32
    assert decode_state(body).window == 1024


def test_a_template_and_the_ids_have_their_places():
    template = Template(50, XfrmMode.TRANSPORT, 9, 4, optional=True).encode()
    assert len(template) == 64
    assert template[20] == 50
    assert template[24:26] == b"\x02\0"
    assert template[44:48] == b"\x09\0\0\0"
    assert (template[48], template[50]) == (0, 1)
    assert template[52:] == b"\xff" * 12
    assert state_id(OTHER, 0x01020304, 50) == OTHER.packed + bytes(12) + bytes.fromhex("01020304 0200 32 00")
    assert policy_id(SELECTOR, PolicyDirection.OUT) == SELECTOR_BYTES + bytes(4) + b"\x01\0\0\0"
    allocate = allocate_spi(state(spi=0), 256, 512)
    assert allocate[224:] == b"\0\1\0\0" + b"\0\2\0\0"


def test_migration_names_old_and_new_ends():
    new = ip_address("203.0.113.9")
    body = migrate(SELECTOR, PolicyDirection.OUT, [Move(ONE, OTHER, ONE, new, 50, XfrmMode.TUNNEL, 3)])
    packed = decode_attributes(body[64:])[Attribute.MIGRATE]
    assert [packed[at : at + 4] for at in (0, 16, 32, 48)] == [
        OTHER.packed, ONE.packed, new.packed, ONE.packed
    ]  # fmt: skip
    assert packed[64:] == b"\x32\x01\0\0" + b"\x03\0\0\0" + b"\x02\0\x02\0"


addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)
numbers = st.integers(0, 0xFFFF_FFFF)
limits = st.builds(Limits, *[st.integers(0, INFINITY)] * 8)


@st.composite
def selectors(draw: st.DrawFn) -> XfrmSelector:
    version = draw(st.sampled_from((4, 6)))
    ends = [
        ip_network(
            (draw(st.ip_addresses(v=version)), draw(st.integers(0, 32 if version == 4 else 128))), False
        )
        for _ in range(2)
    ]
    ports = [draw(st.integers(0, 65535)) for _ in range(2)]
    return XfrmSelector(*ends, draw(st.integers(0, 255)), *ports, draw(st.integers(0, 99)))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    templates = st.builds(
        Template,
        st.sampled_from((50, 51)),
        st.sampled_from(XfrmMode),
        numbers,
        st.just(4),
        st.none() | st.ip_addresses(v=4).filter(int),
        st.none() | st.ip_addresses(v=4).filter(int),
        st.booleans(),
    )
    return Policy(
        draw(selectors()),
        draw(st.sampled_from(PolicyDirection)),
        draw(st.sampled_from(PolicyAction)),
        draw(numbers),
        tuple(draw(st.lists(templates, max_size=3))),
        draw(limits),
        draw(numbers),
        draw(st.none() | st.tuples(numbers, numbers)),
    )


@st.composite
def states(draw: st.DrawFn) -> State:
    address = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    ports = st.integers(0, 65535)
    return State(
        draw(selectors() | st.none()),
        draw(address),
        draw(address),
        draw(numbers),
        draw(st.sampled_from((50, 51))),
        draw(numbers),
        draw(st.sampled_from(XfrmMode)),
        draw(limits),
        draw(st.integers(0, 4096)),
        StateFlag(draw(st.integers(0, 127))),
        draw(st.sampled_from((None, Algorithm("cbc(aes)"), Algorithm("x", icv_bits=64, is_aead=True)))),
        draw(st.sampled_from((None, Algorithm("hmac(sha1)", icv_bits=96)))),
        draw(st.none() | st.builds(Encapsulation, ports, ports)),
        draw(st.none() | st.builds(Offload, st.integers(0, 99), st.just(OffloadFlag.INBOUND))),
        draw(st.none() | st.tuples(numbers, numbers)),
    )


@given(policies())
def test_a_policy_survives_the_trip(policy):
    assert decode_policy(policy.encode()) == policy


@given(states())
def test_a_state_survives_the_trip_but_for_its_keys(state):
    assert decode_state(state.encode()) == state


def test_keys_do_not_come_back_and_are_never_printed():
    secret = state(encryption=Algorithm("cbc(aes)", Secret(b"0123456789abcdef")))
    assert b"0123456789abcdef" in secret.encode()
    assert len(decode_state(secret.encode()).encryption.key) == 0
    assert "0123456789abcdef" not in repr(secret)


def test_events_are_read():
    policy = Policy(SELECTOR, PolicyDirection.OUT, PolicyAction.ALLOW, 5, limits=Limits(soft_packets=77))
    body = (
        OTHER.packed + bytes(12) + bytes(4) + b"\x32" + bytes(3)
        + ONE.packed + bytes(12)
        + SELECTOR_BYTES
        + policy.encode_fixed()
        + bytes(12) + b"\x63\0\0\0"
    )  # fmt: skip
    acquired = decode_acquire(body)
    assert (acquired.source, acquired.destination, acquired.selector) == (ONE, OTHER, SELECTOR)
    assert (acquired.policy, acquired.sequence) == (policy, 0x63)
    for hard in (False, True):
        expired = decode_expire(state().encode() + bytes([hard]) + bytes(7))
        assert (expired.state, expired.hard) == (state(), hard)


def test_statistics_are_read():
    count = bytes.fromhex("08000100 03000000")
    sads = decode_sa_statistics(bytes(4) + count + bytes.fromhex("0c000200 08000000 00001000"))
    assert (sads.count, sads.buckets, sads.most_buckets) == (3, 8, 0x100000)
    numbers = b"".join(number.to_bytes(4, "little") for number in (1, 2, 3, 4, 5, 6))
    spds = decode_policy_statistics(bytes(4) + bytes.fromhex("1c000100") + numbers)
    assert (spds.inbound, spds.outbound, spds.forward, spds.sockets) == (1, 2, 3, 15)


def test_a_mapping_as_the_kernel_lays_it_out() -> None:
    """struct xfrm_user_mapping: the SA's id, a request id, old and new source address, old and new port."""
    addresses = [bytes((10, 9, 0, last)) + bytes(12) for last in (2, 1, 1)]
    identity = addresses[0] + bytes.fromhex("00001001") + (2).to_bytes(2, sys.byteorder) + bytes((50, 0))
    ports = (30_001).to_bytes(2, "big") + (30_002).to_bytes(2, "big")
    body = identity + (7).to_bytes(4, sys.byteorder) + addresses[1] + addresses[2] + ports
    assert len(body) == 64
    us, peer = ip_address("10.9.0.2"), ip_address("10.9.0.1")
    assert decode_mapping(body) == Mapped(us, 0x1001, 50, peer, 30_001, peer, 30_002)
    for size in range(64):
        with pytest.raises(HostError):
            decode_mapping(body[:size])


@pytest.mark.parametrize("decode", [decode_state, decode_policy, decode_acquire, decode_expire])
def test_what_is_too_short_or_of_no_family_is_refused(decode):
    whole = {
        decode_state: state().encode(),
        decode_policy: Policy(SELECTOR, PolicyDirection.IN, PolicyAction.BLOCK, 1).encode(),
        decode_acquire: bytes(280),
        decode_expire: state().encode() + bytes(8),
    }[decode]
    for size in range(0, len(whole), 37):
        with pytest.raises(HostError):
            decode(whole[:size])
    with pytest.raises(HostError):
        decode(bytes(len(whole)))

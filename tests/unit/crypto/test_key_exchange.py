"""Diffie-Hellman against RFC 5903 §8 (ECP), the RFCs' formula for the MODP primes, and Python's own pow()."""

import os

import gmpy2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto import key_exchange
from stockade.crypto.key_exchange import ECP_ORDERS, MODP_PRIMES, generate
from stockade.crypto.registry import group_algorithm
from stockade.model.reasons import HostError, PeerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Group

MODP_GROUPS = list(MODP_PRIMES)
ECP_GROUPS = list(ECP_ORDERS)
EXPONENT_SIZES = dict.fromkeys(MODP_PRIMES, 32)


def counting(size):
    return bytes((7 * index + 1) % 256 for index in range(size))


# ---- MODP
def arctangent_of_inverse(x, scale):
    """floor(scale * arctan(1/x)), up to an error of a few units, by its Taylor series in integers."""
    power = scale // x
    total, divisor, sign = power, 1, -1
    while power:
        power //= x * x
        divisor += 2
        total += sign * (power // divisor)
        sign = -sign
    return total


def pi_times_power_of_two(exponent):
    """floor(2^exponent * pi) by Machin's formula, with 64 guard bits against rounding."""
    scale = 1 << (exponent + 64)
    return (16 * arctangent_of_inverse(5, scale) - 4 * arctangent_of_inverse(239, scale)) >> 64


@pytest.mark.parametrize(
    ("group", "bits", "offset"),
    [
        (Group.MODP_768, 768, 149686),  # RFC 2409 §6.1
        (Group.MODP_1024, 1024, 129093),  # RFC 2409 §6.2
        (Group.MODP_2048, 2048, 124476),  # RFC 3526 §3
    ],
)
def test_modp_prime_is_what_the_formula_of_the_rfc_gives(group, bits, offset):
    formula = 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (pi_times_power_of_two(bits - 130) + offset)
    assert MODP_PRIMES[group] == formula


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_prime_is_safe_and_two_generates_its_prime_order_subgroup(group):
    prime = MODP_PRIMES[group]
    assert gmpy2.is_prime(prime, 10)
    assert gmpy2.is_prime((prime - 1) // 2, 10)
    assert pow(2, (prime - 1) // 2, prime) == 1


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_exchange_agrees_with_pow(group):
    prime, size = MODP_PRIMES[group], group_algorithm(group).public_size
    exponent = int.from_bytes(counting(EXPONENT_SIZES[group])) | 1 << (8 * EXPONENT_SIZES[group] - 1)
    ours, theirs = generate(group, counting), pow(2, 0xC0FFEE, prime)
    assert ours.group is group
    assert ours.public == pow(2, exponent, prime).to_bytes(size)
    assert ours.shared(theirs.to_bytes(size)).reveal() == pow(theirs, exponent, prime).to_bytes(size)


@pytest.mark.parametrize("group", [Group.MODP_2048])
def test_without_the_librarys_exponentiation_ours_gives_the_same(group, monkeypatch):
    with_library, peer = generate(group, counting), generate(group, os.urandom)
    assert key_exchange._parameters(group) is not None  # else this compares nothing
    monkeypatch.setattr(key_exchange, "_parameters", lambda group: None)
    without = generate(group, counting)
    assert without.public == with_library.public
    assert without.shared(peer.public) == with_library.shared(peer.public) == peer.shared(without.public)


@pytest.mark.parametrize(
    ("group", "strength"), [(Group.MODP_768, 80), (Group.MODP_1024, 80), (Group.MODP_2048, 128)]
)
def test_modp_private_exponents_have_twice_the_strength_of_the_group(group, strength):
    drawn = []

    def watch(size):
        drawn.append(size)
        return bytes(size)

    generate(group, watch)
    assert sum(drawn) * 8 >= 2 * strength


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_values_outside_the_group_are_refused(group):
    prime, size = MODP_PRIMES[group], group_algorithm(group).public_size
    ours = generate(group, counting)
    non_residue = next(value for value in range(3, 100) if pow(value, (prime - 1) // 2, prime) != 1)
    for value in (0, 1, prime - 1, prime, prime + 1, prime + 4, 2 ** (8 * size) - 1, non_residue, prime - 4):
        with pytest.raises(PeerError) as caught:
            ours.shared(value.to_bytes(size))
        assert caught.value.reason.code is ReasonCode.INVALID_KEY_EXCHANGE
    assert len(ours.shared((4).to_bytes(size))) == size  # the least that is in the subgroup, except 2


@pytest.mark.parametrize("group", MODP_GROUPS)
def test_modp_short_results_are_padded_to_the_length_of_the_prime(group):
    """RFC 2409 §5: "prepending zero bits to the value if necessary". A peer value that makes the secret 4
    comes from inverting our exponent modulo the subgroup's order."""
    prime, size = MODP_PRIMES[group], group_algorithm(group).public_size
    exponent = int.from_bytes(counting(EXPONENT_SIZES[group])) | 1 << (8 * EXPONENT_SIZES[group] - 1)
    order = (prime - 1) // 2
    peer = pow(4, pow(exponent, -1, order), prime)  # so that peer^exponent = 4
    shared = generate(group, counting).shared(peer.to_bytes(size)).reveal()
    assert shared == (4).to_bytes(size)


# ---- ECP: RFC 5903 §8.1 and §8.2
RFC_5903 = {
    Group.ECP_256: {
        "i": "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "gix": "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180",
        "giy": "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        "r": "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
        "grx": "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63",
        "gry": "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
        "girx": "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
    },
    Group.ECP_384: {
        "i": "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F16"
        "0647B67414DCE655E35B538041E649EE3FAEF896783AB194",
        "gix": "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E3"
        "1634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA",
        "giy": "9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144AD"
        "A024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
        "r": "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060"
        "855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
        "grx": "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D"
        "83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571",
        "gry": "DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416"
        "DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
        "girx": "11187331C279962D93D604243FD592CB9D0A926F422E4718"
        "7521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
    },
}


@pytest.mark.parametrize("group", ECP_GROUPS)
def test_ecp_gives_the_vectors_of_rfc_5903(group):
    vector = {name: bytes.fromhex(value) for name, value in RFC_5903[group].items()}
    initiator = generate(group, lambda size: vector["i"])
    responder = generate(group, lambda size: vector["r"])
    assert initiator.public == vector["gix"] + vector["giy"]
    assert responder.public == vector["grx"] + vector["gry"]
    assert initiator.shared(responder.public) == Secret(vector["girx"])
    assert responder.shared(initiator.public) == Secret(vector["girx"])


@pytest.mark.parametrize("group", ECP_GROUPS)
def test_ecp_draws_again_instead_of_reducing(group):
    size, order = group_algorithm(group).shared_size, ECP_ORDERS[group]
    vector = RFC_5903[group]
    draws = [bytes(size), order.to_bytes(size), b"\xff" * size, bytes.fromhex(vector["i"])]
    assert generate(group, lambda _: draws.pop(0)).public == bytes.fromhex(vector["gix"] + vector["giy"])
    assert draws == []
    # the largest value that is allowed: (n-1)G = -G has the x of G (RFC 5903 §3)
    generator, negative = (generate(group, lambda s, d=d: d.to_bytes(s)).public for d in (1, order - 1))
    assert generator[:size] == negative[:size]
    assert generator[size:] != negative[size:]


@pytest.mark.parametrize("group", ECP_GROUPS)
def test_ecp_broken_random_source_is_the_hosts_fault_and_ends(group):
    with pytest.raises(HostError):
        generate(group, bytes)  # zeros for ever
    with pytest.raises(HostError):
        generate(group, lambda size: b"\x01" * (size - 1))


@pytest.mark.parametrize("group", ECP_GROUPS)
def test_ecp_points_off_the_curve_are_refused(group):
    ours = generate(group, counting)
    size = group_algorithm(group).shared_size
    good = generate(group, os.urandom).public
    x, y = good[:size], good[size:]
    bad = [
        bytes(2 * size),
        b"\xff" * (2 * size),
        y + x,
        x + bytes(size),
        x + y[:-1] + bytes((y[-1] ^ 1,)),
    ]
    for value in bad:
        with pytest.raises(PeerError) as caught:
            ours.shared(value)
        assert caught.value.reason.code is ReasonCode.INVALID_KEY_EXCHANGE


# ---- Curve25519: RFC 7748 §6.1
def test_curve25519_gives_the_vector_of_rfc_7748():
    alice, bob = (
        generate(Group.CURVE_25519, lambda size, value=value: bytes.fromhex(value))
        for value in (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        )
    )
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.shared(bob.public).reveal().hex() == bob.shared(alice.public).reveal().hex() == shared


@pytest.mark.parametrize("value", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_curve25519_values_of_small_order_are_refused(value):
    """They give the zero secret whatever our private value is (RFC 7748 §6.1)."""
    with pytest.raises(PeerError) as caught:
        generate(Group.CURVE_25519, counting).shared(value.to_bytes(32, "little"))
    assert caught.value.reason.code is ReasonCode.INVALID_KEY_EXCHANGE


# ---- all groups
@pytest.mark.parametrize("group", Group)
def test_both_ends_get_the_same_secret_and_the_sizes_of_the_registry(group):
    row = group_algorithm(group)
    first, second = generate(group, os.urandom), generate(group, os.urandom)
    assert first.public != second.public
    assert len(first.public) == len(second.public) == row.public_size
    assert first.shared(second.public) == second.shared(first.public)
    assert len(first.shared(second.public)) == row.shared_size


@pytest.mark.parametrize("group", Group)
def test_the_random_source_alone_decides(group):
    assert generate(group, counting).public == generate(group, counting).public


@pytest.mark.parametrize("group", Group)
def test_values_of_another_length_are_refused(group):
    ours, size = generate(group, counting), group_algorithm(group).public_size
    for length in (0, 1, size - 1, size + 1, 2 * size):
        with pytest.raises(PeerError) as caught:
            ours.shared(b"\x02" * length)
        assert caught.value.reason.code is ReasonCode.INVALID_KEY_EXCHANGE


@settings(max_examples=100, deadline=None)
@given(group=st.sampled_from(list(Group)), data=st.binary(max_size=300), pad=st.booleans())
def test_any_bytes_give_a_secret_or_the_peers_error(group, data, pad):
    size = group_algorithm(group).public_size
    value = data[:size].rjust(size, b"\x5a") if pad else data
    try:
        secret = generate(group, counting).shared(value)
    except PeerError as error:
        outcome: object = error.reason.code
    else:
        outcome = len(secret)
    assert outcome in (ReasonCode.INVALID_KEY_EXCHANGE, group_algorithm(group).shared_size)


@pytest.mark.parametrize("group", Group)
def test_neither_repr_nor_error_shows_the_private_value(group):
    private = counting(EXPONENT_SIZES.get(group, group_algorithm(group).shared_size))
    ours = generate(group, counting)
    text = f"{ours!r} {ours} {[ours]} {ours.shared(generate(group, os.urandom).public)!r}"
    with pytest.raises(PeerError) as caught:
        ours.shared(b"")
    text += str(caught.value)
    for part in (private.hex()[8:24], str(int.from_bytes(private))[8:24]):
        assert part not in text.lower()
    assert str(group) in repr(ours)


@pytest.mark.parametrize("group", [Group.MODP_768, Group.MODP_1024])
def test_primes_that_the_library_does_not_know_by_name_are_not_given_to_it(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would prove them anew with every key: a third of a second for a stranger's message 3."""

    def never(*arguments: object) -> object:
        raise AssertionError("the library computes in this group")

    monkeypatch.setattr(key_exchange, "_library_power", never)
    one, other = (key_exchange.generate(group, os.urandom) for _ in range(2))
    assert one.shared(other.public) == other.shared(one.public)

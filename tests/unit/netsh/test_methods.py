"""Security methods and authentication: the words of netsh and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.model.negotiation import Certificate
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.netsh.methods import MAIN_MODE_METHODS, MAXIMUM_METHODS, QUICK_MODE_METHODS, ROOT_CA

main_mode = st.builds(
    MainModeProposal,
    st.sampled_from([e for e in Encryption if e is not Encryption.NULL and not e.is_aead]),
    st.sampled_from(Hash),
    st.sampled_from(Group),
)
esp = st.one_of(
    st.builds(EspSuite, st.sampled_from([e for e in Encryption if not e.is_aead]), st.sampled_from(Hash)),
    st.builds(EspSuite, st.sampled_from([e for e in Encryption if e.is_aead]), st.none()),
)
encryption_only = st.builds(EspSuite, st.just(Encryption.TRIPLE_DES_CBC), st.none())
lifetimes = {
    "lifetime_seconds": st.integers(1, 172_799),
    "lifetime_kilobytes": st.integers(1, 2**31 - 1),
    "extended_sequence": st.booleans(),
}
quick_mode = st.one_of(
    st.builds(QuickModeProposal, esp, st.none() | st.sampled_from(Hash), **lifetimes),
    st.builds(QuickModeProposal, st.none() | encryption_only, st.sampled_from(Hash), **lifetimes),
)


@given(st.lists(main_mode, min_size=1, max_size=5))
def test_main_mode_methods_are_read_back(methods: list[MainModeProposal]) -> None:
    text = " ".join(str(method) for method in methods)
    assert MAIN_MODE_METHODS.parse(text) == tuple(methods)
    assert MAIN_MODE_METHODS.parse(text.lower()) == tuple(methods)


@given(st.lists(quick_mode, min_size=1, max_size=5))
def test_quick_mode_methods_are_read_back(methods: list[QuickModeProposal]) -> None:
    text = " ".join(str(method) for method in methods)
    assert QUICK_MODE_METHODS.parse(text) == tuple(methods)
    assert QUICK_MODE_METHODS.parse(text.lower()) == tuple(methods)


TRIPLE = EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ESP[3DES,SHA1]", QuickModeProposal(TRIPLE, None, 3600, 100_000)),
        ("ESP[3DES,SHA1]:5000k/900s", QuickModeProposal(TRIPLE, None, 900, 5000)),
        ("ESP[3DES,SHA1]:900s", QuickModeProposal(TRIPLE, None, 900, 100_000)),
        ("esp[3des , sha1]:5000K", QuickModeProposal(TRIPLE, None, 3600, 5000)),
        ("AH[MD5] + ESP[DES, None]", QuickModeProposal(EspSuite(Encryption.DES_CBC, None), Hash.MD5)),
        ("ESP[None,SHA1]", QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1))),
        ("AH[ SHA256 ]", QuickModeProposal(ah=Hash.SHA_256)),
        ("ESP[3DES,SHA1]:ESN", QuickModeProposal(TRIPLE, extended_sequence=True)),
        ("AH[SHA1]:esn/900s", QuickModeProposal(ah=Hash.SHA1, lifetime_seconds=900, extended_sequence=True)),
    ],
)
def test_ways_to_write_a_method(text: str, expected: QuickModeProposal) -> None:
    assert QUICK_MODE_METHODS.parse(text) == (expected,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ESP[None,None]", "protects nothing"),
        ("ESP[3DES,None]", "no integrity"),
        ("ESP[AESGCM128,SHA1]", "its own integrity"),
        ("ESP[3DSE,SHA1]", "nearest: 3DES"),
        ("ESP[3DES,SHA265]", "nearest: SHA256"),
        ("ESP[3DES]", "an encryption and a hash"),
        ("AH[SHA1,MD5]", "one hash"),
        ("AH[SHA1]+AH[MD5]", "AH twice"),
        ("ESP[3DES,SHA1]+ESP[3DES,SHA1]", "ESP twice"),
        ("ESP[3DES,SHA1]:", "no lifetime"),
        ("ESP[3DES,SHA1]:1k/2k", "same lifetime twice"),
        ("ESP[3DES,SHA1]:0s", "outside"),
        ("ESP[3DES,SHA1]:9999999999k", "outside"),
        ("3DES-SHA1", "neither ESP"),
        ("", "0 methods"),
        (" ".join(["AH[SHA1]"] * (MAXIMUM_METHODS + 1)), "65 methods"),
    ],
)
def test_quick_mode_methods_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        QUICK_MODE_METHODS.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3DES-SHA1", "not encryption-hash-group"),
        ("3DES-SHA1-4", "no group"),
        ("None-SHA1-2", "no encryption"),
        ("AESGCM128-SHA1-2", "no encryption"),
        ("AES265-SHA1-2", "nearest: AES256"),
        ("3DES-SHA-2", "no hash"),
        (" ", "0 methods"),
    ],
)
def test_main_mode_methods_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MAIN_MODE_METHODS.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CN=Root, O=Example", Certificate("CN=Root, O=Example")),
        ("CN=Root certmap:yes", Certificate("CN=Root", map_to_account=True)),
        ("CN=Root certmap:no excludecaname:Y", Certificate("CN=Root", exclude_ca_name=True)),
        ("CN=Root, O=\\'Example\\'", Certificate('CN=Root, O="Example"')),
    ],
)
def test_root_ca(text: str, expected: Certificate) -> None:
    assert ROOT_CA.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", " certmap:yes", "CN=R certmap:maybe", "CN=R certmap:no certmap:no", "a\x00b"]
)
def test_root_ca_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ROOT_CA.parse(text)

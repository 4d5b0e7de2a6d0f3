"""Every security method that netsh can write, negotiated between two engines.

The words come from the tables of the command language, so a new one is tried here by itself; the sizes of
the keys come from the RFCs (2405, 2451, 3602, 4106, 4309, 4543, 7634; 2403, 2404, 4868) and not from our
registry."""

from collections.abc import Iterator
from itertools import product

import pytest
from exchange_harness import (
    BETA,
    Network,
    Node,
    assert_matching,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import DeleteQuickMode
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Group
from stockade.netsh import methods as words

SIZES = {"des": 8, "3des": 24, "none": 0, "md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
SIZES |= {f"aes{bits}": bits // 8 for bits in (128, 192, 256)}
SIZES |= {f"aesgcm{bits}": bits // 8 + 4 for bits in (128, 192, 256)}
SIZES |= {f"aesccm{bits}": bits // 8 + 3 for bits in (128, 192, 256)}
SIZES |= {f"aesgmac{bits}": bits // 8 + 4 for bits in (128, 192, 256)}
SIZES["chacha20poly1305"] = 32 + 4
LIFETIME = ":200000k/500s"
DELETED = Reason.of(ReasonCode.SA_DELETED)


def valid(texts: Iterator[str]) -> list[str]:
    """Those that netsh takes; the others make no sense (ESP without anything, integrity beside AES-GCM)."""
    found = []
    for text in texts:
        try:
            words.quick_mode_method(text)
        except ValueError:
            continue
        found.append(text)
    return found


ENCRYPTIONS = tuple(words._ENCRYPTIONS)
INTEGRITIES = ("none", *words._INTEGRITIES)
ESP = valid(f"ESP[{one},{other}]" for one, other in product(ENCRYPTIONS, INTEGRITIES))
AH = valid(f"AH[{one}]" for one in INTEGRITIES)
BOTH = valid(f"{header}+ESP[{one},{other}]" for header, one, other in product(AH, ENCRYPTIONS, INTEGRITIES))


def test_every_word_is_in_some_method() -> None:
    assert {text.split("[")[1].split(",")[0] for text in ESP} == set(ENCRYPTIONS)
    assert {text.split(",")[1].rstrip("]") for text in ESP} >= {"none", *words._HASHES}
    assert {text[3:-1] for text in AH} == set(words._INTEGRITIES)
    assert len(BOTH) >= len(AH) * len(ESP)


def parts(text: str) -> dict[str, tuple[int, int]]:
    """Key sizes of a method's SAs: encryption and integrity, by protocol."""
    sizes = {}
    for part in text.split("+"):
        protocol, inside = part.lower().rstrip("]").split("[")
        if protocol == "ah":
            sizes["ah"] = (0, SIZES[inside])
        else:
            encryption, integrity = inside.split(",")
            sizes["esp"] = (SIZES[encryption], SIZES[integrity])
    return sizes


def make(network: Network, alpha: Node, beta: Node, text: str, group: Group | None) -> None:
    """Secure by this method, check the SAs of both ends, and take them away again."""
    method = words.quick_mode_method(text + LIFETIME)
    rule = negotiation(quick=(method,), pfs=group is not None, group=group, name=text)
    alpha.policy.rule = beta.policy.rule = rule
    wanted = parts(text)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(3, pairs_up(alpha, beta, pairs=len(wanted))), (text, alpha.reports[-2:])
    assert_matching(alpha, beta)
    for node in (alpha, beta):
        (view,) = node.engine.quick_modes(network.now)
        assert str(view.proposal) == str(method), text
        assert view.pfs_group == ("" if group is None else str(group))
        for sa in node.sas.values():
            encryption, integrity = wanted["ah" if sa.esp is None else "esp"]
            assert (len(sa.encryption_key), len(sa.integrity_key)) == (encryption, integrity), text
            assert (sa.lifetime.hard_seconds, sa.lifetime.hard_bytes) == (500.0, 200_000 * 1024)
    keys = {key.reveal() for sa in alpha.sas.values() for key in (sa.encryption_key, sa.integrity_key)}
    assert len(keys - {b""}) == 2 * sum(size > 0 for sizes in wanted.values() for size in sizes), text
    network.command(alpha, DeleteQuickMode(alpha.of(Direction.INBOUND)[0].spi, DELETED))
    assert network.run(3, lambda: not alpha.sas and not beta.sas)
    network.run(1.1)


@pytest.mark.parametrize("kind", ["ESP", "AH"])
def test_every_quick_mode_method(kind: str) -> None:
    network, alpha, beta = two_hosts()
    for text in {"ESP": ESP, "AH": AH}[kind]:
        make(network, alpha, beta, text, None)


@pytest.mark.parametrize("header", AH)
def test_every_method_of_ah_and_esp(header: str) -> None:
    network, alpha, beta = two_hosts()
    for text in BOTH:
        if text.startswith(header + "+"):
            make(network, alpha, beta, text, None)


@pytest.mark.parametrize("group", list(Group))
def test_every_group_of_session_keys(group: Group) -> None:
    network, alpha, beta = two_hosts()
    for text in (ESP[0], ESP[-1], AH[0], BOTH[0]):
        make(network, alpha, beta, text, group)


MAIN = [
    f"{one}-{other}-{group}"
    for one, other, group in product(words._MAIN_MODE_ENCRYPTIONS, words._HASH_WORDS, words._GROUP_WORDS)
]


@pytest.mark.parametrize("group", words._GROUP_WORDS)
def test_every_main_mode_method(group: str) -> None:
    chosen = [text for text in MAIN if text.endswith(f"-{group}")]
    assert len(chosen) == len(words._MAIN_MODE_ENCRYPTIONS) * len(words._HASH_WORDS)
    for text in chosen:
        method = words.main_mode_method(text)
        network, alpha, beta = two_hosts(negotiation(main=(method,), lifetime=7200))
        network.command(alpha, alpha.acquire(BETA))
        assert network.run(3, pairs_up(alpha, beta)), (text, alpha.reports[-2:])
        assert_matching(alpha, beta)
        for node in (alpha, beta):
            (view,) = node.engine.main_modes(network.now)
            assert str(view.proposal).casefold() == text.casefold()
            assert 7100 < view.remaining <= 7200

"""AH, and AH with ESP, through both modes and into the driver without a system.

   initiator                                        responder
1  HDR*, HASH(1), SA(P1: AH spi, P1: ESP spi), Ni  ->
2                              <-  HDR*, HASH(2), SA(P1: AH spi, P1: ESP spi), Nr      in: AH, ESP
   in: AH, ESP
3  HDR*, HASH(3)                                   ->                                  out: AH, ESP
"""

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    ESP,
    Node,
    assert_matching,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import DeleteQuickMode, RekeyQuickMode, RemoveSa
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal

BOTH = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1)
FULL = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1), Hash.MD5)
NULL = QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1))
AH = QuickModeProposal(ah=Hash.SHA1)


def bundled(node: Node) -> bool:
    """Every SA names the other one of its direction."""
    return all(
        sa.bundle is not None and node.sas[sa.bundle, sa.direction].bundle == sa.spi
        for sa in node.sas.values()
    )


@pytest.mark.parametrize("method", [AH, NULL], ids=str)
def test_ah_alone_and_esp_without_encryption(method: QuickModeProposal) -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(method,)))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    assert {(sa.esp, sa.ah) for sa in alpha.sas.values()} == {(method.esp, method.ah)}


@pytest.mark.parametrize("method", [BOTH, FULL], ids=str)
@pytest.mark.parametrize("pfs", [False, True])
def test_ah_and_esp_together(method: QuickModeProposal, pfs: bool) -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(method,), pfs=pfs))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta, pairs=2)), alpha.reports + beta.reports
    assert_matching(alpha, beta)
    assert bundled(alpha)
    assert bundled(beta)
    keys = [bytes(sa.integrity_key.reveal()) for sa in alpha.sas.values() if len(sa.integrity_key)]
    assert len(set(keys)) == len(keys)
    assert len(alpha.engine.quick_modes(network.now)) == 1


def test_rekey_delete_and_the_driver_naming_the_ah_half() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(BOTH,)))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta, pairs=2))
    header = next(sa.spi for sa in alpha.of(Direction.INBOUND) if sa.ah is not None)
    old = set(alpha.sas)
    network.command(alpha, RekeyQuickMode(header))
    network.run(10)
    assert pairs_up(alpha, beta, pairs=2)()
    assert not old & set(alpha.sas)
    assert_matching(alpha, beta)
    header = next(sa.spi for sa in beta.of(Direction.INBOUND) if sa.ah is not None)
    network.command(beta, DeleteQuickMode(header, Reason.of(ReasonCode.SA_IDLE)))
    network.run(1)
    assert not alpha.sas
    assert not beta.sas


def test_peer_that_wants_esp_alone_leaves_no_spi_reserved() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(BOTH, ESP)), negotiation(quick=(ESP,)))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    assert all(sa.bundle is None for sa in (*alpha.sas.values(), *beta.sas.values()))
    freed = [entry for entry in alpha.history if isinstance(entry, RemoveSa)]
    assert len(freed) == 1
    assert freed[0].direction is Direction.INBOUND
    assert (freed[0].spi, freed[0].direction) not in alpha.sas
    assert freed[0].peer == BETA
    assert ALPHA in {sa.local for sa in alpha.sas.values()}

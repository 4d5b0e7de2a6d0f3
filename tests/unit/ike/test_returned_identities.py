"""Which identities a responder of quick mode may return for those that it was asked about."""

from ipaddress import ip_address

from stockade.ike.v1.nat_traversal import Nat, Variant
from stockade.ike.v1.quick_mode import same_identities
from stockade.model.addresses import AddressRange
from stockade.model.negotiation import Mode
from stockade.wire.isakmp.payloads import IdentificationPayload


def host(address: str, protocol: int = 6, port: int = 0) -> IdentificationPayload:
    return IdentificationPayload.of_addresses(AddressRange.host(ip_address(address)), protocol, port)


INSIDE, PUBLIC, SERVER = host("10.0.0.5"), host("203.0.113.9"), host("198.51.100.1")
SENT = (INSIDE, SERVER)
WE_ARE_BEHIND = Nat(Variant.RFC, local_behind=True, peer_behind=False)


def test_ours_or_none() -> None:
    for nat in (None, WE_ARE_BEHIND):
        assert same_identities([], SENT, nat, Mode.TRANSPORT)
        assert same_identities([INSIDE, SERVER], SENT, nat, Mode.TUNNEL)
        assert not same_identities([SERVER, INSIDE], SENT, nat, Mode.TRANSPORT)


def test_strongswan_returns_the_address_that_it_sees() -> None:
    assert same_identities([PUBLIC, SERVER], SENT, WE_ARE_BEHIND, Mode.TRANSPORT)
    assert not same_identities([PUBLIC, SERVER], SENT, None, Mode.TRANSPORT)
    assert not same_identities([PUBLIC, SERVER], SENT, WE_ARE_BEHIND, Mode.TUNNEL)


def test_nothing_but_the_address_behind_the_nat_may_differ() -> None:
    for returned in (
        [INSIDE, PUBLIC],
        [host("203.0.113.9", 17), SERVER],
        [host("203.0.113.9", 6, 80), SERVER],
        [PUBLIC],
        [PUBLIC, SERVER, SERVER],
    ):
        assert not same_identities(returned, SENT, WE_ARE_BEHIND, Mode.TRANSPORT), returned

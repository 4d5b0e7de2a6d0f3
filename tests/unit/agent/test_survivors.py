"""SAs put together again: pairs, bundles, halves."""

import random
from dataclasses import replace
from ipaddress import ip_address

from stockade.agent.survivors import put_together
from stockade.driver.contract import Survivor
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector

HERE, THERE = ip_address("10.0.0.1"), ip_address("10.0.0.2")
SELECTOR = TrafficSelector(AddressRange.host(HERE), AddressRange.host(THERE))
ESP = EspSuite(Encryption.AES_GCM_128, None)


def half(spi: int, pair: int, direction: Direction, **more: object) -> SecurityAssociation:
    out = direction is Direction.OUTBOUND
    values: dict[str, object] = {
        "spi": spi,
        "pair": pair,
        "direction": direction,
        "source": HERE if out else THERE,
        "destination": THERE if out else HERE,
        "selector": SELECTOR if out else SELECTOR.reversed(),
        "mode": Mode.TRANSPORT,
        "esp": ESP,
        "ah": None,
        "encryption_key": Secret(b""),
        "integrity_key": Secret(b""),
        "negotiation": "rule",
        "filter_id": "f",
        "main_mode": "m",
    }
    return SecurityAssociation(**{**values, **more})


def both(spi: int, pair: int, **more: object) -> list[SecurityAssociation]:
    return [half(spi, pair, Direction.INBOUND, **more), half(pair, spi, Direction.OUTBOUND, **more)]


def survivors(*sas: SecurityAssociation, age: float = 5.0) -> list[Survivor]:
    found = [Survivor(sa, age) for sa in sas]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(found)
    return found


def test_pairs_come_together_whatever_their_order():
    first, second = both(0x1000, 0x2000), both(0x3000, 0x4000)
    pairs, rest = put_together([*survivors(*first, age=2.0), *survivors(*second, age=9.0)])
    assert [(pair.inbound, pair.outbound) for pair in pairs] == [tuple(second), tuple(first)]
    assert not rest


def test_a_half_is_left_over():
    first, second = both(0x1000, 0x2000), both(0x3000, 0x4000)
    pairs, rest = put_together(survivors(*first, second[0]))
    assert len(pairs) == 1
    assert rest == [second[0]]
    assert put_together([]) == ([], [])


def test_halves_that_disagree_are_not_one_pair():
    inbound, outbound = both(0x1000, 0x2000)
    for changed in (
        replace(outbound, pair=0x1001),
        replace(outbound, negotiation="another"),
        replace(outbound, filter_id="g"),
        replace(outbound, esp=EspSuite(Encryption.AES_GCM_256, None)),
        replace(outbound, mode=Mode.TUNNEL),
        replace(outbound, selector=replace(SELECTOR, protocol=6)),
        replace(outbound, source=ip_address("10.0.0.9")),
    ):
        pairs, rest = put_together(survivors(inbound, changed))
        assert not pairs
        assert len(rest) == 2


def bundle() -> list[SecurityAssociation]:
    esp = [
        half(0x1000, 0x2000, Direction.INBOUND, bundle=0x1001),
        half(0x2000, 0x1000, Direction.OUTBOUND, bundle=0x2001),
    ]
    header = {"esp": None, "ah": Hash.SHA1}
    ah = [
        half(0x1001, 0x2001, Direction.INBOUND, bundle=0x1000, **header),
        half(0x2001, 0x1001, Direction.OUTBOUND, bundle=0x2000, **header),
    ]
    return [*esp, *ah]


def test_a_bundle_is_one_quick_mode():
    esp_in, esp_out, ah_in, ah_out = bundle()
    pairs, rest = put_together(survivors(esp_in, esp_out, ah_in, ah_out))
    assert not rest
    assert [(pair.inbound, pair.outbound, pair.headers) for pair in pairs] == [
        (esp_in, esp_out, (ah_in, ah_out))
    ]


def test_a_bundle_without_one_of_its_four_is_none():
    for missing in range(4):
        parts = bundle()
        del parts[missing]
        pairs, rest = put_together(survivors(*parts))
        assert not pairs
        assert len(rest) == 3

"""SPIs of inbound SAs: reserved, in use, free again."""

from itertools import chain, repeat

from stockade.driver.spis import AWAITED_SECONDS, SpisInUse, SpiSource


def test_a_number_is_in_use_until_the_last_sa_that_has_it_is_gone() -> None:
    spis = SpisInUse()
    assert 0x1000 not in spis
    spis.add(0x1000)
    spis.add(0x1000)  # to another address of ours
    spis.remove(0x1000)
    assert 0x1000 in spis
    spis.remove(0x1000)
    assert 0x1000 not in spis
    spis.remove(0x1000)
    spis.add(0x1000)
    assert 0x1000 in spis
    spis.clear()
    assert 0x1000 not in spis


def test_a_number_in_use_is_not_given_out() -> None:
    spis = SpisInUse()
    spis.add(0x1000)
    numbers = chain([0x1000, 0x1000], repeat(0x2000))
    source = SpiSource(lambda size: next(numbers).to_bytes(size, "big"))
    assert source.reserve(spis) == 0x2000


def test_an_spi_is_awaited_from_its_reservation_until_a_moment_after_its_sa_came() -> None:
    source = SpiSource(lambda size: (0x2000).to_bytes(size, "big"))
    assert not source.is_awaited(0x2000, 0.0)
    source.reserve(())
    assert source.is_awaited(0x2000, 500.0)
    source.came(0x2000, 500.0)
    assert source.is_awaited(0x2000, 500.0 + AWAITED_SECONDS - 0.1)
    assert not source.is_awaited(0x2000, 500.0 + AWAITED_SECONDS)
    source.came(0x2000, 600.0)
    source.settle(0x2000)
    assert not source.is_awaited(0x2000, 600.1), "an SA that is gone is not awaited"
    source.came(0x2000, 700.0)
    source.lose()
    assert not source.is_awaited(0x2000, 700.1), "nor one of a data plane that ended"

"""`bench esp`: what it makes of iperf3's report."""

import pytest

from stockade.bench.esp import datagrams_a_second

# Of iperf3 3.12 (`-u -l 64 -t 2 -O 1`), shortened: 41 877 datagrams were lost in the warm-up and 86 996 in
# the measurement; the first are in `lost_packets` and not in `packets`.
WITH_WARM_UP = {
    "sum": {"seconds": 1.992142, "bytes": 10586880, "lost_packets": 128873, "packets": 165420},
    "sum_received": {"seconds": 1.992142, "bytes": 5076352, "lost_packets": 128873, "packets": 165420},
}
NEARLY_ALL_LOST = {
    "sum": {"seconds": 2.0, "bytes": 10240000, "lost_packets": 203000, "packets": 160000},
    "sum_received": {"seconds": 2.0, "bytes": 640000, "lost_packets": 203000, "packets": 160000},
}


def test_datagrams_are_counted_where_they_arrive_and_losses_of_the_warm_up_are_not_taken_off() -> None:
    assert datagrams_a_second(WITH_WARM_UP) == pytest.approx((166314 - 86996) / 1.992142, rel=1e-6)
    assert datagrams_a_second(NEARLY_ALL_LOST) == 5000

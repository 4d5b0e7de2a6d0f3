"""The kernel driver and agents over it, with real XFRM: a program of its own, since the machine that the
tests run on may have no ESP. `test_kernel_driver_real.py` starts it (in a User-Mode-Linux kernel,
scripts/uml) and reads its results:

    python kernel_scenarios.py --results FILE --folder DIR [SCENARIO ...]

The scenarios are in scenarios_*.py, what they are made of in kernel_*.py:

    kernel_world ──┬── kernel_agents ───┬── scenarios_agents
                   │                    ├── scenarios_tunnels
                   └── kernel_drivers ──┼── scenarios_packets
                                        ├── scenarios_early
                                        └── scenarios_events

What we wrote into the kernel is read back by `ip xfrm`, which is not ours.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path

from kernel_world import ALPHA, BETA, World
from scenarios_agents import (
    a_killed_agent_comes_back,
    agents_negotiate_and_carry_traffic,
    clear_traffic_is_refused,
    packets_through_a_nat_survive_a_killed_agent,
    permit_and_block_are_kept,
)
from scenarios_early import an_end_with_many_sas, packets_ahead_of_their_sa_wait_for_it
from scenarios_events import (
    accept_clear_lets_clear_packets_in,
    loopback_is_left_alone,
    the_kernel_reports_what_happens,
    what_began_a_negotiation_goes_in_clear_where_the_way_is_open,
    what_the_kernel_lacks_is_left_or_refused,
)
from scenarios_packets import (
    a_changed_mapping_is_followed,
    ah_around_esp_carries_packets,
    esp_in_udp_passes,
    every_suite_carries_packets,
    extended_sequence_numbers_pass_the_end_of_32_bits,
)
from scenarios_tunnels import agents_negotiate_a_tunnel, sas_move_to_another_address, tunnels_carry_packets

from stockade.lab.netns import Network

SCENARIOS: dict[str, Callable[[World], None]] = {
    "every-suite-carries-packets": every_suite_carries_packets,
    "tunnels-carry-packets": tunnels_carry_packets,
    "the-kernel-reports-what-happens": the_kernel_reports_what_happens,
    "esp-in-udp-passes": esp_in_udp_passes,
    "packets-ahead-of-their-sa-wait": packets_ahead_of_their_sa_wait_for_it,
    "an-end-with-many-sas": an_end_with_many_sas,
    "a-changed-mapping-is-followed": a_changed_mapping_is_followed,
    "what-began-a-negotiation-goes-in-clear": what_began_a_negotiation_goes_in_clear_where_the_way_is_open,
    "extended-sequence-numbers": extended_sequence_numbers_pass_the_end_of_32_bits,
    "ah-around-esp": ah_around_esp_carries_packets,
    "sas-move-to-another-address": sas_move_to_another_address,
    "what-the-kernel-lacks": what_the_kernel_lacks_is_left_or_refused,
    "loopback-is-left-alone": loopback_is_left_alone,
    "accept-clear-lets-clear-packets-in": accept_clear_lets_clear_packets_in,
    "agents-negotiate-and-carry-traffic": agents_negotiate_and_carry_traffic,
    "agents-negotiate-a-tunnel": agents_negotiate_a_tunnel,
    "permit-and-block-are-kept": permit_and_block_are_kept,
    "clear-traffic-is-refused": clear_traffic_is_refused,
    "a-killed-agent-comes-back": a_killed_agent_comes_back,
    "packets-through-a-nat-survive-a-killed-agent": packets_through_a_nat_survive_a_killed_agent,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("scenarios", nargs="*", help=f"some of: {', '.join(SCENARIOS)}")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-kernel-"))
    results: dict[str, dict[str, object]] = {}
    for name in options.scenarios or SCENARIOS:
        began = time.monotonic()
        outcome, detail = "passed", ""
        hosts = {"alpha": ip_interface(f"{ALPHA}/24"), "beta": ip_interface(f"{BETA}/24")}
        try:
            with Network(hosts) as network:
                SCENARIOS[name](World(network, folder))
        except Exception:
            outcome, detail = "failed", traceback.format_exc()
        seconds = round(time.monotonic() - began, 1)
        print(f"{name}: {outcome} in {seconds} s\n{detail}", flush=True)
        results[name] = {"outcome": outcome, "seconds": seconds, "detail": detail}
        options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

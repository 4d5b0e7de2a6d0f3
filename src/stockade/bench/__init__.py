"""Benchmarks: what things cost on this machine, beside a limit or a named peer of the same run. They inform,
they never pass or fail: a figure over its limit is printed, and the exit status stays 0.

`stockade bench NAME …` runs one, and so does `python benchmarks/NAME.py …`. A new one is a module here and a
row in `BENCHMARKS`. The module has two functions:

    add_arguments(parser: argparse.ArgumentParser) -> None     its own options
    run(options: argparse.Namespace, report: Report) -> None   says its figures to the report (report.py)
"""

BENCHMARKS = {
    "esp": "the user-space data plane beside the plain wire and strongSwan: streams, small packets, latency",
    "filters": "filters in the kernel: install rate, one changed filter, and what each packet pays for them",
    "flood": "50 000 first messages a second from forged addresses, and what honest peers notice",
    "ike": "full IKEv1 handshakes beside strongSwan's charon, what they cost, and memory per SA",
    "kills": "agents and data planes killed under traffic: clear and lost packets, seconds until all is well",
    "policy": "compiling a policy, finding the filter of a flow, changing one filter: 100 to 100 000 filters",
}
"""The benchmarks by name, with what they measure."""

"""The policies of examples/two-hosts do what their comments say: run, compiled, and asked about packets."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.traffic import Flow
from stockade.netsh.interpreter import decode_script, run_script
from stockade.netsh.session import Session
from stockade.policy.compiler import compile_table
from stockade.policy.objects import PolicySet
from stockade.store.local import LocalStore

EXAMPLES = Path(__file__).parents[3] / "examples" / "two-hosts"
ADDRESSES = {
    "alpha": IPv4Address("10.99.0.1"),
    "beta": IPv4Address("10.99.0.2"),
    "gamma": IPv4Address("10.99.0.3"),
}
CLEAR, DROPPED, SECURED = Action.PERMIT, Action.BLOCK, Action.NEGOTIATE


def load(name: str, folder: Path) -> PolicySet:
    path = EXAMPLES / f"{name}.netsh"
    store = LocalStore(folder / f"{name}.db")
    outcomes = run_script(decode_script(path.read_bytes()), Session(store), source=str(path), atomic=True)
    assert [outcome.text for outcome in outcomes if outcome.failed] == []
    return store.read()


def table(name: str, folder: Path) -> FilterTable:
    return compile_table([load(name, folder)], [ADDRESSES[name]])


def verdict(filters: FilterTable, host: str, flow: Flow) -> Action | None:
    direction = Direction.OUTBOUND if flow.source == ADDRESSES[host] else Direction.INBOUND
    found = filters.lookup(flow, direction)
    assert found is None or not found.accept_clear
    assert found is None or not found.allow_soft
    return None if found is None else found.action


# host, source, destination, protocol, destination port, expected
CASES = [
    ("alpha", "alpha", "beta", 6, 5001, SECURED),
    ("alpha", "beta", "alpha", 6, 5001, SECURED),
    ("alpha", "alpha", "beta", 1, 0, SECURED),
    ("alpha", "alpha", "beta", 17, 53, None),
    ("alpha", "alpha", "beta", 6, 23, DROPPED),
    ("alpha", "beta", "alpha", 6, 23, DROPPED),
    ("alpha", "gamma", "alpha", 6, 23, DROPPED),
    ("alpha", "alpha", "beta", 6, 22, CLEAR),
    ("alpha", "beta", "alpha", 6, 22, CLEAR),
    ("alpha", "gamma", "alpha", 6, 22, CLEAR),
    ("alpha", "gamma", "alpha", 6, 80, None),
    ("beta", "alpha", "beta", 6, 5001, SECURED),
    ("beta", "beta", "alpha", 1, 0, SECURED),
    ("beta", "alpha", "beta", 6, 23, DROPPED),
    ("beta", "beta", "alpha", 6, 23, DROPPED),
    ("beta", "alpha", "beta", 6, 22, CLEAR),
    ("beta", "beta", "alpha", 6, 22, CLEAR),
    ("beta", "gamma", "beta", 6, 5001, SECURED),
    ("beta", "gamma", "beta", 1, 0, SECURED),
    ("beta", "beta", "gamma", 1, 0, SECURED),
    ("beta", "gamma", "beta", 6, 23, DROPPED),
    ("beta", "gamma", "beta", 6, 22, CLEAR),
]


@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_packets_fare_as_the_comments_say(host: str, tmp_path: Path) -> None:
    filters = table(host, tmp_path)
    for at, source, destination, protocol, port, expected in CASES:
        if at == host:
            source_port = 40_000 if port else 0
            flow = Flow(ADDRESSES[source], ADDRESSES[destination], protocol, source_port, port)
            assert verdict(filters, host, flow) is expected, str(flow)
            # The answers fare like the questions.
            assert verdict(filters, host, flow.reversed()) is expected, str(flow.reversed())


def test_both_ends_have_the_same_key_and_methods(tmp_path: Path) -> None:
    ends = [load(name, tmp_path) for name in ("alpha", "beta")]
    keys, methods, main_modes = [], [], []
    for objects in ends:
        assert objects.assigned is not None
        for rule in objects.assigned.rules:
            keys += [m.key.reveal() for m in rule.authentication if isinstance(m, PresharedKey)]
        action = objects.filter_action("Require security")
        assert action is not None
        methods.append(action.methods)
        main_modes.append(objects.assigned.main_mode_methods)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert b"EXAMPLE" in keys[0]
    assert methods[0] == methods[1]
    assert main_modes[0] == main_modes[1]

"""Where a filter was written: the file and its line, from the script or file to the explanation."""

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.analyze.offline import Offline
from stockade.model.filters import Direction, Origin
from stockade.model.traffic import Flow
from stockade.netsh.interpreter import run_command, run_script
from stockade.netsh.session import Session
from stockade.policy.compiler import PolicyCompiler
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import Filter, FilterAddress, FilterList, PolicySet
from stockade.policy.predefined import SECURE_SERVER, predefined_set
from stockade.store.formats import file_kind, read_policy_file, write_reg_file
from stockade.store.json_form import filter_form, filter_of
from stockade.store.local import LocalStore

LDIF = Path(__file__).parents[2] / "data" / "samba-ipsec-objects.ldif"
SCRIPT = """rem the first line
netsh ipsec static
add filterlist name=web

add filter web me any protocol=tcp srcport=443
add filter web me 192.0.2.0/24
"""
ME, PEER = ip_address("198.51.100.1"), ip_address("192.0.2.9")


def filters_of(objects: PolicySet, name: str) -> tuple[Filter, ...]:
    found = objects.filter_list(name)
    assert found is not None
    return found.filters


@pytest.mark.parametrize("atomic", [False, True])
def test_a_filter_of_a_script_knows_its_line_also_after_the_store_was_opened_anew(tmp_path, atomic):
    store = LocalStore(tmp_path / "policy.db")
    assert not any(
        outcome.failed for outcome in run_script(SCRIPT, Session(store), source="web.cmd", atomic=atomic)
    )
    run_command("ipsec static add filter web me 203.0.113.1", Session(store))
    store.close()
    opened = LocalStore(tmp_path / "policy.db")
    origins = [entry.origin for entry in filters_of(opened.read(), "web")]
    assert origins == [Origin("web.cmd", 5), Origin("web.cmd", 6), None]
    # and after a walk through the history
    newest = opened.history()[-1].number
    assert [entry.origin for entry in filters_of(opened.revision(newest), "web")] == origins


def test_the_json_form_of_before_has_no_origin_and_is_read():
    entry = Filter(FilterAddress.me(), FilterAddress.any())
    old = filter_form(entry)
    assert filter_of(old) == entry
    assert filter_of(old).origin is None
    assert filter_of(filter_form(replace(entry, origin=Origin("a", 3)))).origin == Origin("a", 3)


@pytest.mark.parametrize("form", ["ldif", "reg"])
def test_a_filter_of_a_file_of_windows_knows_the_line_of_its_object(form):
    if form == "ldif":
        text = LDIF.read_text()
        content = text.encode()
        wanted = "dn: CN=ipsecFilter{7238523A"
    else:
        content, _ = write_reg_file(predefined_set(), with_secrets=False, allow_losses=True)
        text = content.decode("utf-16")
        wanted = "ipsecFilter{7238523A"
    assert file_kind(content) == form
    objects = read_policy_file(content, f"objects.{form}").policy_set
    origin = filters_of(objects, "All IP Traffic")[0].origin
    assert origin is not None
    assert origin.file == f"objects.{form}"
    line = text.splitlines()[origin.line - 1]
    assert wanted.casefold() in line.casefold()
    assert line.startswith("dn:" if form == "ldif" else "[")


def test_the_explanation_says_the_line_in_text_and_in_json():
    objects = read_policy_file(LDIF.read_bytes(), "ad.ldif").policy_set
    explanation = Offline.of([objects], [ME], policy=SECURE_SERVER).explain(Flow(ME, PEER, 6, 1, 2))
    answer = json.loads(json.dumps(explanation.as_dict()))
    assert answer["file"] == "ad.ldif"
    assert f"(ad.ldif line {answer['line']})" in answer["why"][0]
    assert any(f"(ad.ldif line {answer['line']})" in line for line in explanation.lines())


def test_a_filter_that_only_moved_to_another_line_touches_nothing_but_tells_the_new_line(policy_set):
    entry = Filter(FilterAddress.me(), FilterAddress.of(PEER), origin=Origin("a", 1))
    compiler = PolicyCompiler()
    before = compiler.compile([policy_set(("web", entry, "block"))], [ME])
    after = compiler.compile([policy_set(("web", replace(entry, origin=Origin("a", 9)), "block"))], [ME])
    assert after.ids == before.ids
    found = after.lookup(Flow(ME, PEER, 6, 1, 2), Direction.OUTBOUND)
    assert found is not None
    assert found.provenance.origin == Origin("a", 9)


def test_the_store_of_a_list_tells_positions_that_are_shared(policy_set):
    """The number of a filter follows its list without the filter being made anew."""
    some = [Filter(FilterAddress.me(), FilterAddress.of(ip_address(f"192.0.2.{n}"))) for n in range(1, 5)]
    objects = policy_set(("web", some, "block"))
    compiler = PolicyCompiler()
    before = compiler.compile([objects], [ME])
    kept = next(entry for entry in before.filters if entry.provenance.filter_index == 4)
    shorter = FilterList("web filters", tuple(some[1:]), guid=objects.filter_lists[0].guid)
    after = compiler.compile([replace(objects, filter_lists=(shorter,))], [ME])
    assert after.by_id(kept.id) is kept
    assert kept.provenance.filter_index == 3


def test_memory_stores_keep_it(tmp_path):
    store = MemoryStore(PolicySet())
    run_script(SCRIPT, Session(store), source="web.cmd")
    assert filters_of(store.read(), "web")[1].origin == Origin("web.cmd", 6)

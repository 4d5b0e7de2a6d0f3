"""The contract of the readers of policy files: any bytes give a result or a `CallerError`, in bounded time.

`fuzz_one(data)` is the one target, for hypothesis here and for a coverage-guided harness such as atheris. The
corpus is real: a directory's LDIF, and the same objects as a `.reg` file and as a hive; each example is one
of them with a few bytes changed, cut out, doubled or moved. What a blob's decoder accepts must encode to the
same bytes, and what an import accepts must survive an export."""

import importlib.util
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stockade.model.reasons import CallerError
from stockade.store.formats import (
    FileKind,
    file_kind,
    objects_from_policy_set,
    read_objects,
    read_policy_file,
)
from stockade.store.formats.conversion.reading import policy_set_from_objects
from stockade.store.formats.ldif import read_ldif
from stockade.store.formats.objects import ObjectSet
from stockade.store.formats.reg import encode_reg, write_reg
from stockade.store.formats.registry import keys_from_objects

TESTS = Path(__file__).parents[1]
SECONDS = 5.0  # for one example; a good one takes hundredths


@cache
def hives() -> ModuleType:
    """The writer of hives, which stands beside the tests of the reader."""
    file = TESTS / "unit" / "store" / "formats" / "hive_writer.py"
    specification = importlib.util.spec_from_file_location("hive_writer_for_fuzzing", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@cache
def corpus() -> dict[FileKind, bytes]:
    ldif = (TESTS / "data" / "samba-ipsec-objects.ldif").read_bytes()
    objects = read_ldif(ldif.decode())
    root = hives().Node("Save")
    for key in keys_from_objects(objects, "top"):
        node = root if key.path == "top" else root.child(key.name)
        node.values = [(name, value.type, value.data) for name, value in key.values.items()]
    return {
        FileKind.LDIF: ldif,
        FileKind.REG: encode_reg(write_reg(objects)),
        FileKind.HIVE: hives().HiveWriter().write(root),
    }


def fuzz_one(data: bytes) -> None:
    """Raises only where the contract is broken."""
    started = time.process_time()
    try:
        objects, _ = read_objects(data, "fuzz")
    except CallerError:
        return
    finally:
        assert time.process_time() - started < SECONDS
    for entry in objects.objects:
        try:
            decoded = entry.decoded()
        except CallerError:
            continue
        assert decoded.encode() == entry.data
    try:
        result = read_policy_file(data, "fuzz")
    except CallerError:
        return
    finally:
        assert time.process_time() - started < 2 * SECONDS
    exported = objects_from_policy_set(result.policy_set, with_secrets=True)
    again, _ = policy_set_from_objects(exported)
    assert {entry.guid for entry in again.policies} == {entry.guid for entry in result.policy_set.policies}
    assert all(str(problem) for problem in result.problems)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(list(FileKind)))
    data = bytearray(corpus()[kind])
    # most of a hive's first block, and most of a long text, is passed over: aim at what is read
    low = draw(st.sampled_from((0, 4_096))) if kind is FileKind.HIVE else 0
    for _ in range(draw(st.integers(1, 6))):
        where = draw(st.integers(low, len(data) - 1))
        size = draw(st.integers(1, 8))
        match draw(st.sampled_from(("set", "cut", "double", "number", "insert"))):
            case "set":
                data[where] = draw(st.integers(0, 255))
            case "cut" if kind is not FileKind.HIVE:
                del data[where : where + size]
            case "double":
                data[where : where + size] = data[where : where + size] * 2
            case "number":
                value = draw(st.sampled_from((0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF, 32)))
                data[where : where + 4] = value.to_bytes(4, "little")
            case _:
                data[where:where] = draw(st.binary(max_size=8))
        if len(data) < low + 1:
            break
    return hives().repaired(data) if kind is FileKind.HIVE and len(data) >= 512 else bytes(data)


@given(mutated())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_gives_a_result_or_our_error(data: bytes) -> None:
    fuzz_one(data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_objects_give_a_policy_set_and_problems(data: st.DataObject) -> None:
    objects = list(read_ldif(corpus()[FileKind.LDIF].decode()).objects)
    references = [entry.reference for entry in objects]
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(objects) - 1))
        blob = bytearray(objects[position].data)
        where = data.draw(st.integers(16, len(blob) - 1))
        blob[where : where + 4] = data.draw(
            st.sampled_from((b"\0", b"\1\0\0\0", b"\xff" * 4, b"\x81", b"\2\0"))
        )
        others = tuple(data.draw(st.lists(st.sampled_from(references), max_size=3)))
        change = data.draw(st.sampled_from(("data", "rules", "filters", "owners")))
        objects[position] = replace(
            objects[position], **{change: bytes(blob) if change == "data" else others}
        )
    active = data.draw(st.sampled_from([None, *(reference.guid for reference in references)]))
    policy_set, problems = policy_set_from_objects(ObjectSet(tuple(objects), active))
    assert all(str(problem) for problem in problems)
    for policy in policy_set.policies:
        assert not policy.assigned or policy.guid == active
        for rule in policy.rules:
            if not rule.is_default_response:
                assert policy_set.filter_list(rule.filter_list) is not None
                assert policy_set.filter_action(rule.filter_action) is not None


@given(
    st.sampled_from((b"regf", b"REGEDIT4\n", b"\xff\xfe", b"dn: ", b"version: 1\n", b"")),
    st.binary(max_size=400),
)
@settings(max_examples=150, deadline=None)
@example(b"REGEDIT4\n", b'[x]\n"a"=hex:' + b"\\\n" * 50)
@example(b"REGEDIT4\n", b"[" * 300)
@example(b"dn: ", b"x\n " * 100)
@example(b"regf", bytes(5_000))
def test_bytes_behind_a_good_beginning_give_a_result_or_our_error(head: bytes, rest: bytes) -> None:
    fuzz_one(head + rest)


@pytest.mark.parametrize("kind", list(FileKind))
def test_the_corpus_itself_is_good(kind: FileKind) -> None:
    data = corpus()[kind]
    assert file_kind(data) is kind
    assert read_policy_file(data, "x").complete
    fuzz_one(data)


@pytest.mark.parametrize("kind", list(FileKind))
def test_a_file_cut_anywhere_gives_a_result_or_our_error(kind: FileKind) -> None:
    data = corpus()[kind]
    for size in range(0, len(data), max(1, len(data) // 60)):
        fuzz_one(data[:size])


HOSTILE = {
    "a string without an end": b'REGEDIT4\n[x]\n"a"="' + b"x" * 2_000_000,
    "a string of escapes": b'REGEDIT4\n[x]\n"a"="' + b"\\x" * 1_000_000,
    "names without an end": b"REGEDIT4\n[x]\n" + b'"' * 1_000_000,
    "many keys": b"REGEDIT4\n" + b"".join(b"[k%d]\n" % number for number in range(100_000)),
    "one key many times": b"REGEDIT4\n" + b"[k]\n" * 300_000,
    "octets without an end": b'REGEDIT4\n[x]\n"a"=hex:' + b"00," * 1_000_000 + b"g",
    "folds without an end": b"dn: x\n" + b" \n" * 1_000_000,
    "records without an end": b"dn: x\n\n" * 150_000,
    "attributes without an end": b"dn: x\n" + b"a: b\n" * 300_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_a_hostile_text(name: str) -> None:
    fuzz_one(HOSTILE[name])

"""Registry hives. No Windows is here, so the hives are written by `hive_writer`, which an independent reader
(`regipy`) judges; then our reader reads them, and refuses what contradicts itself."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hive_writer import HiveWriter, Node, checksum, repaired

from stockade.model.reasons import CallerError, ReasonCode
from stockade.policy.objects import PolicySet
from stockade.store.formats import FileKind, is_loss, objects_from_policy_set, read_objects, read_policy_file
from stockade.store.formats.hive import read_hive
from stockade.store.formats.objects import IpsecObject, ObjectClass, ObjectSet
from stockade.store.formats.registry import keys_from_objects

UUID_1 = UUID(int=1)
LOCAL = r"Policies\Microsoft\Windows\IPSec\Policy\Local"


def tree(objects: ObjectSet, place: str = "") -> Node:
    """The keys of an exported hive: right under its root, or deeper at `place`."""
    root = Node("$$$PROTO.HIV")
    top = root.at(place) if place else root
    for key in keys_from_objects(objects, "top"):
        node = top if key.path == "top" else top.child(key.name)
        node.values = [(name, value.type, value.data) for name, value in key.values.items()]
    return root


@pytest.fixture(scope="module")
def exported(samba_objects: ObjectSet) -> bytes:
    return HiveWriter().write(tree(samba_objects))


def refused(hive: bytes) -> str:
    with pytest.raises(CallerError) as caught:
        read_hive(hive)
    assert caught.value.reason.code is ReasonCode.INVALID_FILE
    assert "offset" in dict(caught.value.reason.facts)
    return str(caught.value)


@pytest.mark.parametrize("lists", ["lf", "lh", "li", "ri"])
@pytest.mark.parametrize("place", ["", "Save", LOCAL])
def test_real_objects_come_back_from_a_hive(samba_objects: ObjectSet, lists: str, place: str) -> None:
    found = read_hive(HiveWriter(lists).write(tree(samba_objects, place)))
    assert found.problems == ()
    assert set(found.objects) == set(samba_objects.objects)


def test_an_exported_policy_set_comes_back(office: PolicySet) -> None:
    hive = HiveWriter().write(tree(objects_from_policy_set(office, with_secrets=True), "Local"))
    result = read_policy_file(hive, "office.ipsec")
    assert result.kind is FileKind.HIVE
    assert result.complete
    assert result.policy_set == office


def test_names_beyond_latin_1_and_data_in_segments_are_read() -> None:
    for size in (0, 3, 4, 5, 16_344, 16_345, 60_000):
        data = bytes(number % 251 for number in range(size))
        objects = ObjectSet((IpsecObject(ObjectClass.FILTER, UUID_1, "β", data=data),))
        root = tree(objects)
        root.child("Ключ").values = [("значение", 1, "x\0".encode("utf-16-le"))]
        (found,) = read_hive(HiveWriter().write(root)).objects
        assert found.name == "β"
        assert found.data == data


def test_another_reader_agrees_with_the_writer(tmp_path: Path, samba_objects: ObjectSet) -> None:
    registry = pytest.importorskip("regipy.registry")
    file = tmp_path / "export.ipsec"
    for lists in ("lf", "lh", "ri"):  # it reads no li below a key
        file.write_bytes(HiveWriter(lists).write(tree(samba_objects)))
        hive = registry.RegistryHive(str(file))
        found = {key.name: {value.name: value.value for value in key.iter_values(trim_values=False)}
                 for key in hive.root.iter_subkeys()}  # fmt: skip
        assert set(found) == {str(entry.reference) for entry in samba_objects.objects}
        for entry in samba_objects.objects:
            values = found[str(entry.reference)]
            assert values["ipsecData"] == entry.data
            assert values["className"] == entry.object_class.value
            assert values.get("ipsecName", "") == entry.name
            assert values["ipsecDataType"] == entry.data_type


def test_a_hive_that_was_not_closed_is_read_and_said(exported: bytes) -> None:
    changed = bytearray(exported)
    struct.pack_into("<I", changed, 8, 8)
    found = read_hive(repaired(changed))
    assert len(found.objects) == 22
    assert is_loss(found.problems[0])
    assert "not closed" in str(found.problems[0])


def patched(offset: int, layout: str, *values: object) -> Callable[[bytes], bytes]:
    def patch(hive: bytes) -> bytes:
        changed = bytearray(hive)
        struct.pack_into(layout, changed, offset, *values)
        return repaired(changed)

    return patch


ROOT = 4096 + 32 + 4  # the content of the root key's cell


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        (lambda hive: hive[:100], "base block"),
        (lambda hive: hive[:508] + b"\0\0\0\0" + hive[512:], "checksum"),
        (patched(20, "<I", 2), "version 2"),
        (patched(40, "<I", 1 << 30), "bins of"),
        (patched(36, "<I", 1 << 30), "in no bin"),
        (patched(36, "<I", 0), "in no bin"),
        (patched(4096, "4s", b"hbim"), "a bin"),
        (patched(4104, "<I", 31), "a bin of 31"),
        (patched(ROOT - 4, "<i", 80), "not in use"),
        (patched(ROOT - 4, "<i", -(1 << 20)), "does not fit its bin"),
        (patched(ROOT - 4, "<i", -16), "too short"),
        (patched(ROOT, "2s", b"xx"), "“nk” expected"),
        (patched(ROOT + 20, "<I", 23), "announced"),
        (patched(ROOT + 20, "<I", 21), "announced"),
        (patched(ROOT + 20, "<I", 0xFFFF_FFFF), "4294967295 subkeys"),
        (patched(ROOT + 36, "<I", 0xFFFF_FFFF), "4294967295 values"),
        (patched(ROOT + 36, "<I", 2), "in no bin"),
        (patched(ROOT + 28, "<I", 32), "expected"),
        (patched(ROOT + 72, "<H", 0xFFFF), "longer than its cell"),
        (patched(ROOT + 76, "1s", b"\\"), "is called"),
    ],
)
def test_what_contradicts_itself_is_refused(
    exported: bytes, patch: Callable[[bytes], bytes], text: str
) -> None:
    assert text in refused(patch(exported))


def test_a_key_inside_itself_is_refused(exported: bytes) -> None:
    (subkeys,) = struct.unpack_from("<I", exported, ROOT + 28)
    assert "reached twice" in refused(patched(4096 + subkeys + 4 + 4, "<I", 32)(exported))


def test_one_value_shared_by_many_keys_is_refused(exported: bytes) -> None:
    first = exported.index(b"vk\x09\0", 4096)  # className
    second = exported.index(b"vk\x09\0", first + 1)
    changed = exported.replace(struct.pack("<I", second - 4 - 4096), struct.pack("<I", first - 4 - 4096), 1)
    assert "reached twice" in refused(changed)


def test_the_writer_computes_the_checksum_that_the_reader_wants(exported: bytes) -> None:
    assert struct.unpack_from("<I", exported, 508)[0] == checksum(exported)


def test_a_large_hive_of_other_keys_takes_little_time() -> None:
    root = Node("SOFTWARE")
    for number in range(3_000):
        root.child(f"Vendor{number}").values = [("x", 4, b"\1\0\0\0")]
    root.children = list(root.children)
    started = time.process_time()
    with pytest.raises(CallerError, match="holds no IPsec objects"):
        read_hive(HiveWriter().write(root))
    assert time.process_time() - started < 20


def test_a_hive_without_policies_is_refused_with_the_file_s_name() -> None:
    with pytest.raises(CallerError) as caught:
        read_objects(HiveWriter().write(Node("x")), "odd.ipsec")
    assert dict(caught.value.reason.facts)["file"] == "odd.ipsec"

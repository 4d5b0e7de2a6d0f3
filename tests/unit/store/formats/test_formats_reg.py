"""`.reg` files: both versions, all encodings, every kind of value, and what is refused with its line."""

from uuid import UUID

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.policy.objects import PolicySet
from stockade.store.formats import FileKind, file_kind, read_objects, read_policy_file, write_reg_file
from stockade.store.formats.ipsec_data import PolicyData
from stockade.store.formats.objects import ObjectSet
from stockade.store.formats.reg import encode_reg, format_reg, parse_reg, read_reg, write_reg
from stockade.store.formats.registry import RegistryKey, RegistryValue

ROOT = r"HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\IPSec\Policy\Local"
GUID = "{72385230-70FA-11D1-864C-14A300000000}"
BLOB = ",".join(f"{octet:02x}" for octet in PolicyData().encode())
HEAD = "Windows Registry Editor Version 5.00\r\n\r\n"


def hex_of(text: str, encoding: str = "utf-16-le") -> str:
    return ",".join(f"{octet:02x}" for octet in text.encode(encoding))


POLICY = f"""[{ROOT}\\ipsecPolicy{GUID}]
"className"="ipsecPolicy"
"ipsecName"="Office \\"A\\" \\\\ B"
"ipsecDataType"=dword:00000100
"ipsecData"=hex:{BLOB[:30]}\\
  {BLOB[30:45]} \\
  {BLOB[45:]}
"whenChanged"=dword:4041d9b1 ; a comment
"""


def test_a_policy_key_is_read() -> None:
    active = f'[{ROOT}]\n@="x"\n"ActivePolicy"="SOFTWARE\\\\Policies\\\\x\\\\ipsecPolicy{GUID}"\n\n'
    found = read_reg(HEAD + "; a comment\n\n" + active + POLICY)
    assert found.problems == ()
    assert found.active == UUID(GUID)
    (entry,) = found.objects
    assert entry.name == 'Office "A" \\ B'
    assert entry.data == PolicyData().encode()
    assert entry.changed is not None
    assert entry.changed.isoformat() == "2004-02-29T12:23:13+00:00"
    assert entry.place == "line 9"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8", "utf-8-sig", "utf-16-le"])
def test_every_encoding_of_version_5_is_read(encoding: str) -> None:
    data = (HEAD + POLICY.replace("Office", "Büro β")).encode(encoding)
    assert file_kind(data) is FileKind.REG
    assert read_objects(data, "x.reg")[0].objects[0].name.startswith("Büro β")


def test_version_4_has_one_byte_per_character() -> None:
    references = hex_of(
        "SOFTWARE\\x\\ipsecNFA" + GUID + "\0SOFTWARE\\x\\ipsecNFA" + GUID.replace("0}", "1}") + "\0\0",
        "ascii",
    )
    text = "REGEDIT4\n\n" + POLICY.replace("Office", "Büro") + f'"ipsecNFAReference"=hex(7):{references}\n'
    found = read_objects(text.encode("cp1252"), "x.reg")[0].objects[0]
    assert found.name.startswith("Büro")
    assert len(found.rules) == 2


def test_values_of_every_kind_come_back() -> None:
    values = {
        "text": RegistryValue.text('quotes " and \\'),
        "lines": RegistryValue.text("two\r\nlines"),
        "empty": RegistryValue.text(""),
        "number": RegistryValue.number(0xFFFF_FFFE),
        "texts": RegistryValue.texts(("a", "ß")),
        "bytes": RegistryValue(3, bytes(range(256))),
        "nothing": RegistryValue(3, b""),
        "other": RegistryValue(0x1234, b"x"),
        "odd text": RegistryValue(1, b"no end"),
        "short number": RegistryValue(4, b"\1"),
        'na"me\\': RegistryValue.number(1),
    }
    text = format_reg([RegistryKey("HKEY_LOCAL_MACHINE\\x", values)])
    assert all(len(line) <= 80 for line in text.split("\r\n"))
    (key,) = parse_reg(text)
    assert key.path == "HKEY_LOCAL_MACHINE\\x"
    assert dict(key.values) == {name.casefold(): value for name, value in values.items()}


def test_strings_over_several_lines_are_read() -> None:
    found = read_reg(HEAD + POLICY + '"description"="one\r\ntwo"\r\n')
    assert found.objects[0].description == "one\r\ntwo"


def test_a_key_that_comes_twice_is_one_key() -> None:
    again = f'[{ROOT.upper()}\\ipsecpolicy{GUID.lower()}]\n"ipsecName"="Other"\n'
    (entry,) = read_reg(HEAD + POLICY + again).objects
    assert entry.name == "Other"


def test_of_several_places_local_is_read_and_the_others_are_named() -> None:
    other = POLICY.replace("\\Local\\", "\\Cache\\").replace("Office", "Cached")
    found = read_reg(HEAD + other + POLICY)
    assert [entry.name[:6] for entry in found.objects] == ["Office"]
    assert "policy\\cache" in str(found.problems[0])
    assert [entry.name[:6] for entry in read_reg(HEAD + other).objects] == ["Cached"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Windows Registry Editor Version 6.00\n", 1),
        (HEAD + '"a"="b"\n', 3),
        (HEAD + "[-HKEY_LOCAL_MACHINE\\x]\n", 3),
        (HEAD + "[HKEY\nx]\n", 3),
        (HEAD + "[x]\n\n\na=1\n", 6),
        (HEAD + '[x]\n"a"=-\n', 4),
        (HEAD + '[x]\n"a"="b\n', 4),
        (HEAD + '[x]\n"a"=dword:123456789\n', 4),
        (HEAD + '[x]\n"a"=hex:1,22\n', 4),
        (HEAD + '[x]\n"a"=hex:0g\n', 4),
        (HEAD + '[x]\n"a"=hex:00,,01\n', 4),
        (HEAD + '[x]\n"a"=hex:00,\\\n"b"="c"\n', 5),
        (HEAD + '[x]\n"a"="b" c\n', 4),
    ],
)
def test_what_is_no_reg_file_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(CallerError) as caught:
        parse_reg(text)
    assert caught.value.reason.code is ReasonCode.INVALID_FILE
    assert dict(caught.value.reason.facts)["line"] == str(line)


def test_a_reg_file_without_policies_is_refused_but_an_empty_policy_key_is_none() -> None:
    with pytest.raises(CallerError, match="holds no IPsec objects"):
        read_reg(HEAD + '[HKEY_LOCAL_MACHINE\\SOFTWARE\\x]\n"ActivePolicy"="x"\n')
    empty = read_reg(HEAD + f'[{ROOT}]\n"ActivePolicy"=""\n')
    assert (empty.objects, empty.active, empty.problems) == ((), None, ())
    odd = read_reg(HEAD + f'[{ROOT}]\n"ActivePolicy"="nobody"\n')
    assert "names no policy" in str(odd.problems[0])


def test_real_objects_come_back_through_a_reg_file(samba_objects: ObjectSet) -> None:
    text = write_reg(samba_objects)
    again = read_reg(text)
    assert again == samba_objects
    assert file_kind(encode_reg(text)) is FileKind.REG


def test_a_policy_set_comes_back_through_a_reg_file(office: PolicySet) -> None:
    data, problems = write_reg_file(office, with_secrets=True)
    assert problems == ()
    assert data.startswith(b"\xff\xfeW\0i\0")
    result = read_policy_file(data, "office.reg")
    assert result.complete
    assert result.policy_set == office


def test_losses_stop_a_written_file_unless_allowed(office: PolicySet) -> None:
    with pytest.raises(CallerError) as caught:
        write_reg_file(office, with_secrets=False)
    assert caught.value.reason.code is ReasonCode.NOT_EXPRESSIBLE
    assert "Web rule" in str(caught.value)
    data, problems = write_reg_file(office, with_secrets=False, allow_losses=True)
    assert len(problems) == 1
    assert "geheim".encode("utf-16-le") not in data
    assert hex_of("geheim") not in data.decode("utf-16")

"""LDIF: real output of ldbsearch, the forms that RFC 2849 allows, and what is refused with its line."""

import base64
from uuid import UUID

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.store.formats.ipsec_data import PolicyData
from stockade.store.formats.ldif import read_ldif
from stockade.store.formats.objects import ObjectClass, ObjectSet, Reference

GUID = "{72385230-70FA-11D1-864C-14A300000000}"
DATA = base64.b64encode(PolicyData().encode()).decode()
RECORD = f"""dn: CN=ipsecPolicy{GUID},CN=IP Security,CN=System,DC=lab,DC=test
objectClass: top
objectClass: ipsecPolicy
ipsecName: Office
ipsecID: {GUID}
ipsecData:: {DATA}
"""
POINTER = f"""dn: CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,CN={{31B2F340-016D-11D2-945F-00C04FB984F9}},DC=x
objectClass: ipsecPolicy
ipsecOwnersReference: CN=ipsecPolicy{GUID},CN=IP Security,CN=System,DC=lab,DC=test
"""


def test_a_real_directory_is_read(samba_objects: ObjectSet) -> None:
    assert len(samba_objects.objects) == 22
    assert samba_objects.problems == ()
    assert samba_objects.active is None
    server = next(entry for entry in samba_objects.objects if entry.name == "Server (Request Security)")
    assert server.description.startswith("For all IP traffic, always request security using Kerberos")
    assert server.data_type == 598
    assert len(server.rules) == 3
    assert server.isakmp_policy == Reference(
        ObjectClass.ISAKMP_POLICY, UUID(GUID.replace("0-70FA", "1-70FA"))
    )
    permit = next(entry for entry in samba_objects.objects if entry.name == "Permit")
    assert len(permit.owners) == 2
    assert permit.negotiation_type is not None
    assert permit.place == "line 99"


def test_folded_lines_comments_crlf_and_options_are_read() -> None:
    folded = RECORD.replace(
        "ipsecName: Office", "# a comment that\n  goes on\nipsecName;lang-en: Of\n fice\n  2"
    )
    for text in (folded, folded.replace("\n", "\r\n"), "version: 1\n" + folded, "\n\n" + folded.rstrip("\n")):
        assert [entry.name for entry in read_ldif(text).objects] == ["Office 2"]


def test_base64_names_are_utf_8() -> None:
    name = base64.b64encode("Büro".encode()).decode()
    assert read_ldif(RECORD.replace("ipsecName: Office", f"ipsecName:: {name}")).objects[0].name == "Büro"
    broken = read_ldif(RECORD.replace("ipsecName: Office", "ipsecName:: /w=="))
    assert broken.objects == ()
    assert dict(broken.problems[0].facts)["attribute"] == "ipsecName"


def test_other_objects_and_what_ldapsearch_says_at_the_end_are_passed_over() -> None:
    other = "dn: CN=IP Security,CN=System\nobjectClass: container\n\n"
    tail = "\n# search result\nsearch: 2\nresult: 0 Success\n\nref: ldap://x\n\n# numResponses: 3\n"
    assert len(read_ldif(other + RECORD + tail).objects) == 1


def test_add_records_are_content_and_other_changes_are_refused() -> None:
    added = RECORD.replace("objectClass: top", "changetype: add\nobjectClass: top")
    assert len(read_ldif(added).objects) == 1
    with pytest.raises(CallerError, match="a change record"):
        read_ldif(added.replace(": add", ": modify"))


def test_the_pointer_of_a_group_policy_says_what_is_assigned() -> None:
    found = read_ldif(RECORD + "\n" + POINTER)
    assert found.active == UUID(GUID)
    assert len(found.objects) == 1
    other = POINTER.replace("72385230", "72385299").replace("31B2F340", "31B2F341")
    two = read_ldif(RECORD + "\n" + POINTER + "\n" + other)
    assert two.active is None
    assert "2 different policies" in str(two.problems[0])
    odd = read_ldif(RECORD + "\n" + POINTER.replace("=ipsecPolicy{", "=ipsecNFA{"))
    assert odd.active is None
    assert len(odd.problems) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" folded\n", 1),
        ("version: 2\n", 1),
        ("objectClass: top\n", 1),
        (RECORD + "no colon here\n", 7),
        (RECORD.replace(DATA, DATA[:-3] + "*="), 6),
        (RECORD.replace(f"ipsecData:: {DATA}", "ipsecData:< file:///etc/shadow"), 6),
        (RECORD + "\nipsecName: x\n", 8),
    ],
)
def test_what_is_no_ldif_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(CallerError) as caught:
        read_ldif(text)
    assert caught.value.reason.code is ReasonCode.INVALID_FILE
    assert dict(caught.value.reason.facts)["line"] == str(line)


def test_ldif_without_ipsec_objects_is_refused() -> None:
    with pytest.raises(CallerError, match="holds no IPsec objects"):
        read_ldif("dn: CN=x\nobjectClass: top\n")

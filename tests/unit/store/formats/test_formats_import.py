"""One door for all files: what they are is judged by their content."""

import pytest

from stockade.model.reasons import CallerError, HostError, ReasonCode
from stockade.store.formats import (
    MAXIMUM_FILE,
    EspNumbers,
    FileKind,
    file_kind,
    is_loss,
    read_policy_file,
)
from stockade.store.local import LocalStore


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"regf" + bytes(10), FileKind.HIVE),
        (b"REGEDIT4\r\n", FileKind.REG),
        ("\ufeffWindows Registry Editor Version 5.00\r\n".encode("utf-16-le"), FileKind.REG),
        ("\ufeffWindows Registry Editor Version 5.00\r\n".encode("utf-16-be"), FileKind.REG),
        (b"\n# a comment\nversion: 1\n", FileKind.LDIF),
        (b"dn: CN=x\n", FileKind.LDIF),
        (b"netsh ipsec static add policy name=x\n", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"\x89PNG\r\n", None),
    ],
)
def test_files_are_known_by_their_content(data: bytes, kind: FileKind | None) -> None:
    assert file_kind(data) is kind


def test_an_unknown_file_is_refused_with_its_name_and_what_was_expected() -> None:
    with pytest.raises(CallerError) as caught:
        read_policy_file(b"\x89PNG", "picture\x1b.png")
    assert caught.value.reason.code is ReasonCode.INVALID_FILE
    assert dict(caught.value.reason.facts)["file"] == "picture\ufffd.png"
    assert ".ipsec file" in str(caught.value)


def test_a_file_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(CallerError, match="at most"):
        read_policy_file(bytes(MAXIMUM_FILE + 1), "x")


def test_a_result_tells_losses_from_notes(samba_ldif: bytes) -> None:
    result = read_policy_file(samba_ldif, "domain.ldif", store="domain")
    assert result.kind is FileKind.LDIF
    assert result.policy_set.store == "domain"
    assert result.complete
    assert result.losses == ()
    assert len(result.problems) == 5  # the doubtful cipher number, per filter action
    without = samba_ldif.replace(
        b"ipsecData:: tSDcgMgu0RGongCgJI0wIVIAAAAB", b"ipsecData:: tSDcgMgu0RGongCgJI0wIVIAAAAJ"
    )
    assert without != samba_ldif
    damaged = read_policy_file(without, "domain.ldif")
    assert not damaged.complete
    assert all(is_loss(reason) for reason in damaged.losses)
    assert len(damaged.policy_set.filter_lists) == 1


def test_the_other_reading_of_esp_numbers_can_be_asked_for(samba_ldif: bytes) -> None:
    result = read_policy_file(samba_ldif, "x", esp_numbers=EspNumbers.SPECIFICATION)
    action = result.policy_set.filter_action("Require Security")
    assert action is not None
    assert [str(method).partition(":")[0] for method in action.methods][2] == "ESP[None,SHA1]"


def test_what_is_read_goes_into_a_store_and_comes_out_the_same(samba_ldif: bytes, tmp_path: object) -> None:
    found = read_policy_file(samba_ldif, "x").policy_set
    try:
        store = LocalStore(tmp_path / "policy.db")  # type: ignore[operator]
    except HostError as error:  # pragma: no cover
        pytest.skip(str(error))
    with store.transaction() as change:
        for entry in found.filter_lists:
            change.put_filter_list(entry)
        for action in found.filter_actions:
            change.put_filter_action(action)
        for policy in found.policies:
            change.put_policy(policy)
    again = store.read()
    assert again.filter_lists == found.filter_lists
    assert again.filter_actions == found.filter_actions
    assert again.policies == found.policies

"""The registry values of the hotfix (KB 980915), from a `.reg` file and by their whole names."""

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.interpreter import run_command
from stockade.netsh.registry_settings import KEYS, property_of
from stockade.netsh.session import Session

SERVICES = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services"
HOTFIX = (
    "Windows Registry Editor Version 5.00\r\n\r\n"
    f'[{SERVICES}\\PolicyAgent\\Oakley]\r\n"NlbsIdle"=dword:00000001\r\n"Other"="text"\r\n\r\n'
    f'[{SERVICES}\\IPSec]\r\n"NlbsIdleTime"=dword:0000000a\r\n'
    f'[{SERVICES}\\IKEEXT\\Parameters]\r\n"NlbsQMRetransmitDuration"=dword:00000005\r\n'
)


@pytest.fixture
def at_files(session: Session, files) -> Session:
    session.context = ("ipsec", "dynamic")
    files.content["hotfix.reg"] = b"\xff\xfe" + HOTFIX.encode("utf-16-le")
    return session


def test_a_file_of_windows_is_taken(at_files: Session) -> None:
    outcome = run_command("importconfig file=hotfix.reg", at_files)
    assert outcome.status == 0, outcome.text
    kept = {name: at_files.settings.get_setting(name) for name in KEYS}
    assert kept == {"nlbsidle": "1", "nlbsidletime": "10", "nlbsqmretransmitduration": "5", "nlbsflags": None}
    assert "NlbsIdleTime = 10" in outcome.text
    assert "1 other values" in outcome.text


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("0000000a", "0000003d", "5-60"),
        ("0000000a", "00000004", "outside 5–60"),
        ("dword:00000005", "dword:000000ff", "3-60"),
        ('"NlbsIdleTime"=dword:0000000a', '"NlbsIdleTime"="ten"', "must be a dword"),
        ("\\IPSec]", "\\Tcpip]", "acts nowhere"),
        ("Windows Registry", "Widnows Registry", ".reg file"),
    ],
)
def test_one_wrong_value_refuses_the_whole_file(
    at_files: Session, files, old: str, new: str, named: str
) -> None:
    files.content["hotfix.reg"] = HOTFIX.replace(old, new).encode()
    with pytest.raises(CallerError) as refusal:
        run_command("importconfig file=hotfix.reg", at_files)
    assert refusal.value.reason.code is ReasonCode.INVALID_FILE
    assert named in str(refusal.value)
    assert "hotfix.reg" in str(refusal.value)
    assert all(at_files.settings.get_setting(name) is None for name in KEYS)


def test_a_file_without_any_of_them_is_refused(at_files: Session, files) -> None:
    files.content["hotfix.reg"] = b'REGEDIT4\r\n\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE]\r\n"A"=dword:1\r\n'
    with pytest.raises(CallerError, match="NlbsIdleTime"):
        run_command("importconfig file=hotfix.reg", at_files)


def test_a_property_can_be_named_as_the_registry_does(at_files: Session) -> None:
    name = r"HKLM\SYSTEM\CurrentControlSet\Services\IKEEXT\Parameters\NlbsIdleTime"
    assert run_command(f"set config property={name} value=30", at_files).status == 0
    assert at_files.settings.get_setting("nlbsidletime") == "30"
    with pytest.raises(CallerError):
        run_command(f"set config property={name} value=61", at_files)
    assert property_of(r"HKLM\SYSTEM\CurrentControlSet\Services\Tcpip\NlbsIdleTime") is None
    with pytest.raises(CallerError):
        run_command(r"set config property=HKLM\SYSTEM\NlbsIdleTime value=30", at_files)

"""The version in GPT.INI: changed, and nothing else of the file."""

from stockade.console.sysvol import with_version, write_version


def test_the_version_is_replaced_where_it_stands():
    content = b"[General]\r\nVersion=65537\r\ndisplayName=New Group Policy Object\r\n"
    assert with_version(content, 65538) == content.replace(b"65537", b"65538")
    assert with_version(b"[General]\nversion = 1\n", 2) == b"[General]\nversion = 2\n"


def test_a_file_without_a_version_gets_one():
    assert with_version(b"", 3) == b"[General]\r\nVersion=3\r\n"
    assert (
        with_version(b"[general]\r\ndisplayName=x\r\n", 3) == b"[general]\r\nVersion=3\r\ndisplayName=x\r\n"
    )


def test_that_the_file_is_not_reached_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    told = write_version("dc1.lab.test", "lab.test", "{31B2F340-016D-11D2-945F-00C04FB984F9}", 2)
    assert told is not None
    assert "smbclient" in str(told)
    assert "lab.test/Policies/{31B2F340-016D-11D2-945F-00C04FB984F9}/GPT.INI" in str(told)

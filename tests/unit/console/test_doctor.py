"""`stockade doctor`: the choice of the data plane and its reason, for every kind of host."""

import json
import socket

import pytest

from stockade.console import doctor
from stockade.console.doctor import Finding
from stockade.console.main import main


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    """Set what the host has: `host(esp=False)`."""

    def set_up(**missing: bool) -> None:
        def say(name: str, key: str):
            return lambda *arguments: Finding(name, missing.get(key, True), f"{key} was asked")

        monkeypatch.setattr(doctor, "_privileges", say("privileges", "privileges"))
        monkeypatch.setattr(doctor, "_esp", say("ESP", "esp"))
        monkeypatch.setattr(doctor, "_algorithms", say("algorithms", "esp"))
        monkeypatch.setattr(doctor, "_tun", say("TUN device", "tun"))
        monkeypatch.setattr(doctor, "_nftables", say("nftables", "nftables"))
        monkeypatch.setattr(doctor, "_raw_sockets", say("raw ESP sockets", "raw"))

    return set_up


@pytest.mark.parametrize(
    ("missing", "data_plane", "reason"),
    [
        ((), "kernel", "the kernel has ESP"),
        (("tun", "nftables"), "kernel", "the kernel has ESP"),
        (("esp",), "userspace", "no ESP (esp was asked)"),
        (("esp", "tun"), None, "tun was asked"),
        (("esp", "nftables", "raw"), None, "nftables was asked; raw was asked"),
        (("privileges",), None, "privileges was asked"),
    ],
)
def test_the_choice_and_its_reason(host, capsys, missing, data_plane, reason):
    host(**dict.fromkeys(missing, False))
    status = main(["doctor", "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert report["data_plane"] == data_plane
    assert reason in report["why"]
    assert status == (0 if data_plane else 1)
    assert {finding["name"]: finding["ok"] for finding in report["findings"]}["TUN device"] == (
        "tun" not in missing
    )
    assert main(["doctor"]) == status
    assert f"data plane: {data_plane or 'none'}" in capsys.readouterr().out


def test_this_host_is_examined_without_harm():
    report = doctor.examine()
    assert report.data_plane in (None, "kernel", "userspace")
    assert all(finding.detail for finding in report.findings)


def web_finding(home, capsys):
    main(["--home", str(home), "doctor", "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    (found,) = (one for one in report["findings"] if one["name"] == "web console")
    return found["ok"], found["detail"]


def test_whether_the_web_console_can_be_served_is_asked_by_trying(tmp_path, capsys):
    (tmp_path / "web.toml").write_text('listen = "127.0.0.1:0"\n')
    assert web_finding(tmp_path, capsys) == (True, "an agent can serve http://127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        (tmp_path / "web.toml").write_text(f'listen = "127.0.0.1:{other.getsockname()[1]}"\n')
        ok, detail = web_finding(tmp_path, capsys)
        assert not ok
        assert "in use" in detail
    (tmp_path / "web.toml").write_text('listen = "0.0.0.0:8500"\n')
    ok, detail = web_finding(tmp_path, capsys)
    assert not ok
    assert "in clear" in detail

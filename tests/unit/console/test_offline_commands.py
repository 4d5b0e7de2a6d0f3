"""explain, lint, show filters and show unused about a policy file, without an agent."""

import json
from pathlib import Path

import pytest

from stockade.console.main import main

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "two-hosts" / "beta.netsh")
ASK = ["--policy-file", EXAMPLE, "--local", "10.99.0.2", "--format", "json"]


def explain(capsys, *words: str) -> dict:
    assert main(["explain", *words, *ASK]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("question", "verdict", "action", "inbound_clear", "on_failure", "rule"),
    [
        (("10.99.0.3", "10.99.0.2", "tcp", "--dport", "80"), "secure", "negotiate", "drop", "drop",
         "Require security of everybody"),
        (("10.99.0.3", "10.99.0.2", "tcp", "--dport", "22"), "permit", "permit", "accept", None,
         "SSH for everybody"),
        (("10.99.0.3", "10.99.0.2", "tcp", "--dport", "23"), "block", "block", "drop", None, "No telnet"),
        (("10.99.0.1", "10.99.0.2", "icmp"), "secure", "negotiate", "drop", "drop", "Secure alpha"),
        (("10.99.0.3", "10.99.0.2", "udp", "--dport", "500"), "exempt", "permit", "accept", None, None),
        (("10.99.0.3", "10.99.0.2", "udp", "--dport", "53"), "no-filter", None, "accept", None, None),
    ],
)  # fmt: skip
def test_what_happens_to_a_packet(capsys, question, verdict, action, inbound_clear, on_failure, rule):
    answer = explain(capsys, *question)
    assert (answer["verdict"], answer["action"]) == (verdict, action)
    assert (answer["inbound_clear"], answer["on_failure"]) == (inbound_clear, on_failure)
    if rule is not None:
        assert answer["rule"] == rule
        assert answer["weight"] > 0
    assert answer["why"]
    assert all(isinstance(sentence, str) for sentence in answer["why"])


def test_options_and_words_mean_the_same(capsys):
    words = explain(capsys, "10.99.0.3", "10.99.0.2", "tcp", "--port", "80")
    options = ["--src", "10.99.0.3", "--dst", "10.99.0.2", "--protocol", "tcp", "--dport", "80"]
    assert explain(capsys, *options, "--direction", "in") == words


def test_me_is_an_address_of_the_computer_that_is_asked_about(capsys):
    answer = explain(capsys, "me", "10.99.0.1", "tcp", "--port", "80")
    assert answer["direction"] == "outbound"
    assert answer["flow"] == "tcp 10.99.0.2:0 -> 10.99.0.1:80"


@pytest.mark.parametrize(
    "words", [("10.99.0.300", "10.99.0.2"), ("10.99.0.3", "10.99.0.2", "tpc"), ("10.99.0.3",)]
)
def test_a_wrong_word_is_named(capsys, words):
    assert main(["explain", *words, *ASK]) == 1
    refusal = json.loads(capsys.readouterr().err)
    assert refusal["reason"] == "syntax"
    assert "Traceback" not in refusal["text"]


def test_filters_stand_heaviest_first(capsys):
    assert main(["show", "filters", *ASK]) == 0
    answer = json.loads(capsys.readouterr().out)
    weights = [entry["weight"] for entry in answer["filters"]]
    assert weights == sorted(weights, reverse=True)
    assert answer["policy"] == "Two hosts (beta)"


def test_lint_names_remedies_and_fails_where_something_is_an_error(capsys):
    assert main(["lint", *ASK]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert {"lockout", "preshared-key"} <= {finding["kind"] for finding in findings}
    assert all(finding["remedy"] for finding in findings)
    assert "EXAMPLE-ONLY" not in json.dumps(findings)


def test_unused_objects_are_shown_with_what_deletes_them(capsys, tmp_path):
    script = tmp_path / "policy.netsh"
    script.write_text("ipsec static\nadd filterlist name=lonely\nadd policy name=p activatedefaultrule=no\n")
    assert main(["show", "unused", "--policy-file", str(script), "--format", "json"]) == 0
    (unused,) = json.loads(capsys.readouterr().out)
    assert unused["name"] == "lonely"
    assert "delete filterlist" in unused["remedy"]


@pytest.mark.parametrize("content", [b"\x00" * 100, b"regf" + bytes(200), b"add nonsense", b"\xff\xfe\x00"])
def test_a_file_that_is_no_policy_is_refused_with_a_reason(capsys, tmp_path, content):
    file = tmp_path / "policy"
    file.write_bytes(content)
    assert main(["lint", "--policy-file", str(file), "--local", "10.0.0.1", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().err)["remedy"]


LACKING = """
ipsec static
add filterlist name=peer
add filter filterlist=peer srcaddr=me dstaddr=10.99.0.1 protocol=TCP dstport=80
add filteraction name=gmac soft=no inpass=no qmsecmethods="AH[AESGMAC128]"
add policy name=Web activatedefaultrule=no
add rule name="web server" policy=Web filterlist=peer filteraction=gmac psk="EXAMPLE-ONLY-a-long-key-of-words"
set policy name=Web assign=yes
"""


def test_what_the_data_plane_lacks_is_said_by_every_question(capsys, tmp_path):
    """AH with GMAC: the data plane in user space has it, the kernel's has not."""
    script = tmp_path / "web.netsh"
    script.write_text(LACKING)
    ask = ["--policy-file", str(script), "--local", "10.99.0.2", "--format", "json"]
    question = ["explain", "10.99.0.2", "10.99.0.1", "tcp", "--dport", "80", *ask]
    sentence = "the kernel data plane has no AH with"

    assert main(["lint", *ask, "--driver", "kernel"]) == 1
    (refused,) = [one for one in json.loads(capsys.readouterr().out) if one["kind"] == "refused"]
    assert sentence in refused["text"]
    assert (refused["severity"], refused["rule"]) == ("error", "web server")
    assert main([*question, "--driver", "kernel"]) == 0
    assert any(sentence in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert main(["show", "filters", *ask, "--driver", "kernel"]) == 0
    assert sentence in json.loads(capsys.readouterr().out)["warnings"][0]

    main(["lint", *ask, "--driver", "userspace"])
    assert "refused" not in {one["kind"] for one in json.loads(capsys.readouterr().out)}
    assert main([*question, "--driver", "userspace"]) == 0
    assert not any("refused" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert main(question) == 0, "with --local and without --driver nothing is known of the data plane"
    assert not any("refused" in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_a_command_that_cannot_be_read_is_told_with_its_file_and_line(capsys, tmp_path):
    file = tmp_path / "policy.netsh"
    file.write_text("ipsec static\nadd policy P\n\nadd filterlist nme=L\n")
    assert main(["lint", "--policy-file", str(file), "--local", "10.0.0.1", "--format", "json"]) == 1
    facts = json.loads(capsys.readouterr().err)["facts"]
    assert (facts["file"], facts["line"]) == (str(file), "4")


def test_what_of_a_file_of_windows_did_not_come_over_is_told(capsys, tmp_path):
    whole = (Path(__file__).parents[2] / "data" / "samba-ipsec-objects.ldif").read_text()
    file = tmp_path / "cut.ldif"
    objects = whole.split("\n\n")
    file.write_text("\n\n".join(one for one in objects if "dn: CN=ipsecFilter{" not in one))
    main(["show", "unused", "--policy-file", str(file)])
    told = capsys.readouterr().err
    assert "cut.ldif" in told
    assert "Traceback" not in told
    file.write_text(whole)
    assert main(["show", "unused", "--policy-file", str(file)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words", [("lint", "--policy-file"), ("netsh", "-f"), ("netsh", "ipsec", "static", "importpolicy")]
)
def test_bytes_that_are_no_text_are_told_with_their_file(capsys, tmp_path, words):
    file = tmp_path / "program"
    file.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(range(128, 256)))
    assert main(["--home", str(tmp_path / "home"), *words, str(file)]) == 1
    told = capsys.readouterr().err
    assert "not valid UTF-8 (" in told
    assert str(file) in told


SCRIPT = """@echo off
netsh ipsec static delete policy name=P > nul
netsh ipsec static add policy P assign=yes
netsh ipsec static add filter L me any
netsh ipsec static add filteraction B action=block
netsh ipsec static add rule R P L B
netsh ipsec static set store location=persistent
netsh ipsec static add policy Always assign=yes
netsh ipsec static add filter SSH me any protocol=tcp srcport=22
netsh ipsec static add filteraction Open action=permit
netsh ipsec static add rule S Always SSH Open
netsh ipsec dynamic set config property=ipsecexempt value=0
netsh ipsec dynamic add mmpolicy M
netsh ipsec dynamic add qmpolicy Q
netsh ipsec dynamic add rule me 10.0.0.5 M Q
netsh ipsec dynamic add rule srcaddr=me dstaddr=any mmpolicy=M actioninbound=permit actionoutbound=permit
netsh ipsec dynamic show qmsas
netsh ipsec static exportpolicy file={export}
"""


def test_a_script_is_asked_with_all_its_stores_and_settings(capsys, tmp_path):
    """What `dump` writes and what stands in the field: settings, dynamic rules, the persistent store."""
    file, export = tmp_path / "all.cmd", tmp_path / "export"
    file.write_text(SCRIPT.format(export=export))
    asked = ["--policy-file", str(file), "--local", "10.0.0.1", "--format", "json"]

    def verdict(*words: str) -> dict:
        assert main(["explain", *words, *asked]) == 0
        return json.loads(capsys.readouterr().out)

    assert verdict("me", "10.0.0.5", "udp")["verdict"] == "secure"  # dynamic
    assert verdict("10.0.0.9", "me", "tcp", "--dport", "22")["rule"] == "S"  # persistent
    assert verdict("10.0.0.9", "me", "udp", "--sport", "88")["verdict"] == "exempt"  # level 0
    blocked = verdict("me", "10.0.0.9", "udp", "--dport", "7")
    assert (blocked["verdict"], blocked["rule"]) == ("block", "R")
    (lost,) = blocked["overruled"]
    assert lost["action"] == "permit"
    assert "dynamic" in lost["provenance"]
    assert any("is not in force" in sentence and "dynamic" in sentence for sentence in blocked["why"])
    assert main(["lint", *asked]) == 1
    told = capsys.readouterr()
    kinds = {finding["kind"] for finding in json.loads(told.out)}
    assert {"opens-more", "conflict"} <= kinds
    assert told.err.count("passed over") == 2  # the delete, and the show that needs an agent
    assert not list(tmp_path.glob("export*"))


def test_lint_reads_the_exemption_level_of_this_computer(capsys, tmp_path):
    for line in (
        "add policy P assign=yes",
        "add filter L me any",
        "add filteraction B action=block",
        "add rule R P L B",
    ):
        assert main(["--home", str(tmp_path), "netsh", "ipsec", "static", *line.split()]) == 0
    ask = ["--home", str(tmp_path), "lint", "--local", "10.0.0.1"]
    main(ask)
    assert "port 88" not in capsys.readouterr().out
    main(["--home", str(tmp_path), "netsh", "ipsec", "dynamic", "set", "config", "ipsecexempt", "0"])
    assert main(ask) == 1
    assert "port 88" in capsys.readouterr().out


def test_a_file_without_a_policy_is_named(capsys, tmp_path):
    file = tmp_path / "empty.netsh"
    file.write_text("rem nothing\n")
    assert main(["explain", "me", "10.0.0.2", "--policy-file", str(file), "--local", "10.0.0.1"]) == 1
    assert str(file) in capsys.readouterr().err

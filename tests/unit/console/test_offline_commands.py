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

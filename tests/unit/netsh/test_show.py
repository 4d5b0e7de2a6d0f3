"""What `show` prints is read back by its labels, and its JSON says the same."""

import json

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.interpreter import run_command
from stockade.netsh.methods import QUICK_MODE_METHODS
from stockade.netsh.session import JsonValue, Outcome, Session

SETUP = (
    'add filter "Web servers" me 10.0.0.0/8 "over TLS" TCP dstport=443',
    'add filter "Web servers" 10.0.0.5-10.0.0.9 me mirrored=no',
    'add filter "Web servers" me 2001:db8::/32',
    'add filterlist Empty "a description that is so long that a list which is not wide has to cut it short"',
    'add filteraction Secure inpass=yes qmsec="ESP[AESGCM128,None]:5000k/900s AH[SHA1]+ESP[3DES,None]"',
    "add filteraction Block action=block",
    'add policy Servers "the description" mmsecmethods="3DES-SHA1-2 AES256-SHA384-ECP384" assign=yes',
    'add rule Web Servers "Web servers" Secure psk=TopSecretKey kerberos=yes rootca="CN=Root certmap:yes"',
    "add rule Far Servers Empty Block tunnel=192.0.2.1 activate=no",
    "add policy Spare",
)


@pytest.fixture
def filled(session: Session) -> Session:
    for line in SETUP:
        run_command(line, session)
    return session


def show(session: Session, what: str) -> Outcome:
    outcome = run_command(f"show {what}", session)
    assert outcome.status == 0
    assert "TopSecretKey" not in outcome.text
    assert "TopSecretKey" not in json.dumps(outcome.data)
    return outcome


def fields(text: str) -> dict[str, list[str]]:
    """label → values, in the order in which they stand."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        label, colon, value = line.partition(": ")
        if colon and not line.startswith(" "):
            found.setdefault(label.strip(), []).append(value)
    return found


def member(data: JsonValue, *path: str | int) -> JsonValue:
    for step in path:
        assert isinstance(data, dict if isinstance(step, str) else list)
        data = data[step]  # type: ignore[call-overload, index]
    return data


def test_show_policy_normal(filled: Session) -> None:
    outcome = show(filled, "policy Servers")
    found = fields(outcome.text)
    assert found["Policy Name"] == ["Servers"]
    assert found["Description"] == ["the description"]
    assert found["Store"] == ["Local Store"]
    assert found["Assigned"] == ["YES"]
    assert found["Polling Interval"] == ["180 minutes"]
    assert found["MainMode LifeTime"] == ["480 minutes / 0 Quick Mode sessions"]
    assert found["Master PFS"] == ["NO"]
    assert found["No. of Rules"] == ["3"]
    assert "Rule Name" not in found
    rows = [line.split() for line in outcome.text.splitlines() if line.startswith("   ")]
    assert rows[2:] == [["3DES", "SHA1", "Medium(2)"], ["AES256", "SHA384", "ECP384"]]
    policy = filled.store.read().policy("Servers")
    assert policy is not None
    assert found["GUID"] == [f"{{{str(policy.guid).upper()}}}"]


def test_show_policy_verbose_has_everything(filled: Session) -> None:
    found = fields(show(filled, "policy Servers level=verbose").text)
    assert found["Rule Name"] == ["Web", "Far", "NONE"]
    assert [value.split(",")[0] for value in found["Rule ID"]] == ["1", "2", "3"]
    assert found["FilterList Name"] == ["Web servers", "Empty", "<Dynamic>"]
    assert found["FilterAction Name"] == ["Secure", "Block", "Default Response"]
    assert found["Tunnel Endpoint"] == ["NONE", "192.0.2.1", "NONE"]
    assert found["Activated"] == ["YES", "NO", "YES"]
    assert found["No. of Security.Methods"] == ["2", "6"]


def test_show_filter_list(filled: Session) -> None:
    normal = fields(show(filled, 'filterlist "web SERVERS"').text)
    assert normal["No. of Filters"] == ["3"]
    assert "Mirrored" not in normal
    found = fields(show(filled, 'filterlist "Web servers" verbose').text)
    assert found["Mirrored"] == ["YES", "NO", "YES"]
    assert found["Source IP Address"] == ["<My IP Address>", "10.0.0.5-10.0.0.9", "<My IP Address>"]
    assert found["Destination IP Address"] == ["10.0.0.0", "<My IP Address>", "2001:db8::"]
    assert found["Destination Mask"] == ["255.0.0.0", "255.255.255.255", "32"]
    assert found["Protocol"] == ["TCP", "ANY", "ANY"]
    assert found["Destination Port"] == ["443", "ANY", "ANY"]
    assert found["Source Port"] == ["ANY"] * 3


def test_descriptions_are_cut_unless_wide(filled: Session) -> None:
    narrow = fields(show(filled, "filterlist Empty").text)["Description"][0]
    wide = fields(show(filled, "filterlist Empty wide=yes").text)["Description"][0]
    assert narrow.endswith("...")
    assert wide.startswith(narrow[:-3])
    assert wide.endswith("cut it short")


def test_show_filter_action(filled: Session) -> None:
    outcome = show(filled, "filteraction Secure level=verbose")
    found = fields(outcome.text)
    assert found["Action"] == ["NEGOTIATE SECURITY"]
    assert found["Inbound Passthrough"] == ["YES"]
    assert found["AllowUnsecure(Fallback)"] == ["NO"]
    assert found["QMPFS"] == ["NO"]
    assert [line.split() for line in outcome.text.splitlines()[-2:]] == [
        ["[NONE]", "[NONE,", "AESGCM128]", "900/5000"],
        ["[SHA1]", "[NONE,", "3DES]", "3600/100000"],
    ]
    block = fields(show(filled, "filteraction Block level=verbose").text)
    assert block["Action"] == ["BLOCK"]
    assert "QMPFS" not in block


def test_the_methods_in_json_are_what_netsh_reads(filled: Session) -> None:
    methods = member(show(filled, "filteraction Secure").data, "filter_actions", 0, "methods")
    assert isinstance(methods, list)
    action = filled.store.read().filter_action("Secure")
    assert action is not None
    assert QUICK_MODE_METHODS.parse(" ".join(str(method) for method in methods)) == action.methods


def test_show_rule(filled: Session) -> None:
    outcome = show(filled, "rule Web Servers")
    assert fields(outcome.text)["FilterList Name"] == ["Web servers"]
    lines = [line.strip() for line in outcome.text.splitlines()]
    start = lines.index("Authentication Methods(3)")
    assert lines[start + 1 : start + 4] == [
        "PRESHARED KEY (not shown)",
        "KERBEROS",
        "ROOT CA: CN=Root certmap:yes excludecaname:no",
    ]
    assert member(outcome.data, "rules", 0, "authentication", 0) == {"method": "preshared-key"}


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("rule all Servers", ["1", "2", "3"]),
        ("rule all Servers type=tunnel", ["2"]),
        ("rule all policy=Servers type=transport", ["1", "3"]),
        ("rule default Servers", ["3"]),
        ("rule id=2 policy=Servers", ["2"]),
        ("rule far servers", ["2"]),
    ],
)
def test_choosing_rules(filled: Session, words: str, ids: list[str]) -> None:
    outcome = show(filled, words)
    assert [value.split(",")[0] for value in fields(outcome.text)["Rule ID"]] == ids
    assert [str(rule["id"]) for rule in member(outcome.data, "rules")] == ids  # type: ignore[union-attr, index, call-overload]


def test_objects_of_a_rule(filled: Session) -> None:
    assert fields(show(filled, "filterlist rule=Web").text)["FilterList Name"] == ["Web servers"]
    assert fields(show(filled, "filteraction rule=far").text)["FilterAction Name"] == ["Block"]


def test_show_all_counts(filled: Session) -> None:
    outcome = show(filled, "all")
    found = fields(outcome.text)
    assert found["Policy Name"] == ["Servers", "Spare"]
    assert (found["No. of Policies"], found["No. of FilterLists"], found["No. of FilterActions"]) == (
        ["2"],
        ["2"],
        ["2"],
    )
    assert member(outcome.data, "store") == "local"
    assert member(outcome.data, "filter_lists", 0, "filters", 0) == {
        "source": "me",
        "source_kind": "me",
        "destination": "10.0.0.0/8",
        "destination_kind": "addresses",
        "protocol": "tcp",
        "protocol_number": 6,
        "source_port": 0,
        "destination_port": 443,
        "mirrored": True,
        "description": "over TLS",
    }


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("policy all", ["Servers", "3"]),
        ("filterlist all", ["Web servers", "3"]),
        ("filteraction all", ["Block", "BLOCK"]),
        ("rule all Servers", ["1", "YES"]),
        ("all", ["Servers", "3"]),
    ],
)
def test_tables(filled: Session, words: str, row: list[str]) -> None:
    text = show(filled, f"{words} format=table").text
    rows = [[cell for cell in line.split("  ") if cell] for line in text.splitlines()]
    assert any([cell.strip() for cell in cells[:2]] == row for cells in rows), text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_every_show_command_gives_json(filled: Session) -> None:
    for words in ("all", "policy all", "filterlist all", "filteraction all", "rule all Servers", "store"):
        assert json.loads(json.dumps(show(filled, words).data))
    assert show(filled, "store").data == {"store": "local"}


def test_show_what_is_not_there(filled: Session) -> None:
    for words in ("policy Severs", "filterlist X", "filteraction X", "rule X Servers", "filterlist rule=X"):
        with pytest.raises(CallerError) as error:
            run_command(f"show {words}", filled)
        assert error.value.reason.code is ReasonCode.UNKNOWN_NAME
    with pytest.raises(CallerError) as error:
        run_command("show policy Severs", filled)
    assert dict(error.value.reason.facts)["nearest"] == "Servers"


def test_host_names_are_shown_where_they_are_asked_for(filled: Session) -> None:
    run_command("add filter Two me 10.0.0.2", filled)
    run_command("add filter Two me www.example.com", filled)
    run_command("add filter Two gateway me", filled)
    found = fields(show(filled, "filterlist Two level=verbose resolvedns=yes").text)
    assert found["Destination DNS Name"] == ["two.example.com", "www.example.com", "<My IP Address>"]
    assert found["Destination IP Address"] == ["10.0.0.2", "<Resolved when used>", "<My IP Address>"]
    assert found["Source IP Address"][2] == "<Default Gateway>"
    found = fields(show(filled, "filterlist Two level=verbose").text)
    assert found["Destination DNS Name"][0] == "NONE"


def test_a_bare_show_is_show_all(filled: Session) -> None:
    """As the FAQ prints it: `netsh ipsec static show`, `netsh ipsec dynamic show`."""
    for context in ("static", "dynamic"):
        bare = run_command(f"netsh ipsec {context} show", filled)
        whole = run_command(f"netsh ipsec {context} show all", filled)
        assert (bare.status, len(bare.text.splitlines())) == (0, len(whole.text.splitlines()))
        assert len(bare.text.splitlines()) > 20
        assert run_command(f"netsh ipsec {context} show ?", filled).text.count("Shows") > 5


@pytest.mark.parametrize("what", ["filteraction all", "rule all Servers"])
def test_a_verbose_table_has_the_methods(filled: Session, what: str) -> None:
    brief, verbose = (show(filled, f"{what} level={level} format=table") for level in ("normal", "verbose"))
    assert "[AESGCM128" not in brief.text
    assert "Security methods of Secure" in verbose.text
    assert "900/5000" in verbose.text
    if what.startswith("rule"):
        assert "Filters of Web servers" in verbose.text


def test_wide_characters_keep_the_columns(filled: Session) -> None:
    run_command("add policy 服务器策略 assign=no", filled)
    run_command("add policy cafe\u0301", filled)
    rows = show(filled, "policy all format=table").text.splitlines()
    assert rows[0].startswith("Policy Name  Rules")
    wide = next(row for row in rows if row.startswith("服"))
    assert wide[: wide.index("1")] == "服务器策略   "  # five characters on ten places
    combined = next(row for row in rows if row.startswith("cafe"))
    assert combined.index("1") == len("Policy Name  ") + 1

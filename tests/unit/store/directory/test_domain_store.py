"""Changes of an administrator -> changes of a directory: whole, in an order that never leaves a reference to
what is not there, and taken back where one of them fails."""

import random
from dataclasses import replace

import pytest
from fake_directory import CONTAINER, DOMAIN_DN, FakeDirectory, refuse
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.model.secret import Secret
from stockade.netsh.contract import AssigningStore, World
from stockade.netsh.interpreter import run_script
from stockade.netsh.session import Session
from stockade.policy.group_policy import normal_dn
from stockade.store.directory.domain_store import DomainStore
from stockade.store.formats.objects import ObjectClass, Reference

SCRIPT = """
ipsec static
set store location=domain
add filterlist name=ping
add filter filterlist=ping srcaddr=10.79.0.2 dstaddr=10.79.0.3 protocol=ICMP
add filteraction name=require qmsecmethods="ESP[3DES,SHA1]"
add policy name=Secured activatedefaultrule=no mmsecmethods="3DES-SHA1-2"
add rule name=secure policy=Secured filterlist=ping filteraction=require kerberos=yes
"""
SERVER = "Server (Request Security)"


def store_of(directory: FakeDirectory, told: list[Reason] | None = None) -> DomainStore:
    heard = [] if told is None else told
    return DomainStore(lambda: directory, heard.append, lambda gpo, version: None)


def run(directory: FakeDirectory, script: str, *, good: bool = True, atomic: bool = False) -> str:
    """Run it on the directory's store; what failed."""
    store = store_of(directory)
    session = Session(store, world=World(open_domain=lambda name: store))
    try:
        outcomes = run_script(script, session, atomic=atomic)
    except StockadeError as error:  # an atomic script that cannot be kept
        assert atomic
        return str(error.reason)
    assert directory.dangling() == [] or not good
    failed = [outcome.text for outcome in outcomes if outcome.failed]
    assert not (good and failed), failed
    return "\n".join(failed)


def watched(directory: FakeDirectory) -> FakeDirectory:
    def check() -> None:
        assert directory.dangling(owners=False) == [], directory.changes
        store_of(directory).read()

    directory.after_change = check
    return directory


def entry(directory: FakeDirectory, object_class: ObjectClass, name: str) -> dict[str, tuple[bytes, ...]]:
    (found,) = [
        held
        for dn, held in directory.entries.values()
        if (reference := Reference.parse(dn)) is not None
        and reference.object_class is object_class
        and held.get("ipsecname") == (name.encode(),)
    ]
    return found


def test_a_policy_is_written_whole_and_read_back_the_same():
    directory = watched(FakeDirectory().with_shipped_objects())
    run(directory, SCRIPT)
    policy = store_of(directory).read().policy("Secured")
    assert policy is not None
    assert [rule.name for rule in policy.rules] == ["secure", ""]
    assert policy.rules[0].filter_list == "ping"
    kinds = [change.partition(" CN=")[2].partition("{")[0] for change in directory.changes]
    assert kinds.index("ipsecPolicy") > max(
        place for place, (kind, change) in enumerate(zip(kinds, directory.changes, strict=True))
        if kind != "ipsecPolicy" and change.startswith("add")
    )  # fmt: skip
    written = entry(directory, ObjectClass.NFA, "secure")
    assert written["ipsecownersreference"] == (
        f"CN=ipsecPolicy{{{str(policy.guid).upper()}}},{CONTAINER}".encode(),
    )
    assert written["ipsecdatatype"] == (b"256",)
    assert len(entry(directory, ObjectClass.FILTER, "ping")["ipsecownersreference"]) == 1


def test_only_what_differs_is_written():
    directory = watched(FakeDirectory().with_shipped_objects())
    before = directory.content()
    run(directory, f'ipsec static\nset policy name="{SERVER}" description="Changed."')
    after = directory.content()
    changed = [key for key in after if after[key] != before[key]]
    assert len(changed) == 1
    assert {
        name for name in after[changed[0]] if after[changed[0]][name] != before[changed[0]].get(name)
    } == {"description"}
    assert after[changed[0]]["ipsecdatatype"] == {b"598"}


def test_main_mode_settings_of_a_shipped_policy_are_changed_in_its_own_object():
    directory = watched(FakeDirectory().with_shipped_objects())
    count = len(directory.entries)
    run(directory, f'ipsec static\nset policy name="{SERVER}" mmlifetime=60')
    assert len(directory.entries) == count
    policy = store_of(directory).read().policy(SERVER)
    assert policy is not None
    assert policy.main_mode_minutes == 60


def test_computers_that_look_at_the_policy_only_notice_a_changed_filter():
    directory = watched(FakeDirectory().with_shipped_objects())
    run(directory, SCRIPT)
    before = entry(directory, ObjectClass.POLICY, "Secured")
    run(directory, "ipsec static\nadd filter filterlist=ping srcaddr=me dstaddr=10.79.0.9")
    after = entry(directory, ObjectClass.POLICY, "Secured")
    assert int(after["usnchanged"][0]) > int(entry(directory, ObjectClass.FILTER, "ping")["usnchanged"][0])
    assert {**after, "usnchanged": ()} == {**before, "usnchanged": ()}


def test_a_policy_goes_with_all_that_only_it_has():
    directory = watched(FakeDirectory().with_shipped_objects())
    before = directory.content()
    run(directory, SCRIPT)
    run(
        directory,
        "ipsec static\ndelete policy name=Secured\ndelete filterlist name=ping\n"
        "delete filteraction name=require",
    )
    assert directory.content() == before
    run(directory, f'ipsec static\ndelete policy name="{SERVER}"')
    gone = [key.partition("{")[0] for key in before if key not in directory.content()]
    assert sorted(gone) == [
        "cn=ipsecisakmppolicy",
        "cn=ipsecnegotiationpolicy",
        *["cn=ipsecnfa"] * 3,
        "cn=ipsecpolicy",
    ]
    assert store_of(directory).read().policy(SERVER) is None
    assert store_of(directory).read().filter_list("All IP Traffic") is not None


def test_what_is_used_is_not_deleted_even_by_a_rule_that_cannot_be_read():
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    entry(directory, ObjectClass.NFA, "secure")["ipsecdata"] = (b"\0" * 20,)
    before = directory.content()
    failed = run(directory, "ipsec static\ndelete filterlist name=ping", good=False)
    assert "is used by" in failed
    assert directory.content() == before


def test_an_object_that_was_not_read_whole_is_not_rewritten():
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    held = entry(directory, ObjectClass.FILTER, "ping")
    data = bytearray(held["ipsecdata"][0])
    assert data.count(bytes((10, 79, 0, 2, 255, 255, 255, 255))) == 1
    place = data.index(bytes((10, 79, 0, 2, 255, 255, 255, 255)))
    data[place + 4 : place + 8] = bytes((255, 0, 255, 0))  # a mask with a hole: no subnet, so it is lost
    held["ipsecdata"] = (bytes(data),)
    before = directory.content()
    told: list[Reason] = []
    store_of(directory, told).read()
    assert told, "the damage is told"
    failed = run(directory, "ipsec static\nadd filter filterlist=ping srcaddr=me dstaddr=any", good=False)
    assert "cannot be read" in failed
    assert directory.content() == before


@pytest.mark.parametrize("other", ["change", "add", "delete"])
def test_a_change_by_somebody_else_is_noticed(other):
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    store = store_of(directory)
    theirs = {
        "change": "set policy name=Secured description=theirs",
        "add": "add filterlist name=theirs",
        "delete": "delete policy name=Secured",
    }[other]

    def change_it() -> None:
        with store.transaction() as change:
            policy = change.read().policy("Secured")
            assert policy is not None
            change.put_policy(replace(policy, description="mine"))
            run(directory, f"ipsec static\n{theirs}")

    with pytest.raises(StockadeError) as caught:
        change_it()
    assert caught.value.reason.code is ReasonCode.STORE_BUSY
    now = store_of(directory).read().policy("Secured")
    assert now is None or now.description != "mine"


def test_a_change_between_two_steps_is_noticed_and_what_was_written_is_taken_back():
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    before = directory.content()

    def meanwhile(count: int, what: str) -> None:
        directory.before_change = lambda count, what: None
        entry(directory, ObjectClass.POLICY, "Secured")["usnchanged"] = (b"999999",)

    directory.before_change = meanwhile
    failed = run(
        directory,
        "ipsec static\nadd filterlist name=more\nadd filter filterlist=more srcaddr=me dstaddr=any\n"
        "add rule name=second policy=Secured filterlist=more filteraction=require kerberos=yes",
        good=False,
    )
    assert "somebody else has changed" in failed
    assert directory.content() == before


def test_a_controller_that_refuses_half_way_leaves_the_directory_as_it_was():
    """For every step of a large change."""
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    before = directory.content()
    script = (
        "ipsec static\nset filteraction name=require qmpfs=yes\nadd filterlist name=more\n"
        "add filter filterlist=more srcaddr=me dstaddr=any\nset policy name=Secured mmlifetime=100\n"
        "add rule name=second policy=Secured filterlist=more filteraction=require kerberos=yes\n"
        "delete rule name=secure policy=Secured\ndelete filterlist name=ping"
    )
    steps = 0
    while True:
        steps += 1
        done = len(directory.changes)

        def fail(count: int, what: str, limit: int = done + steps) -> None:
            if count == limit:
                refuse("no space left")

        directory.before_change = fail
        failed = run(directory, script, good=False, atomic=True)
        if not failed:
            break
        assert "no space left" in failed
        assert directory.content() == before, (steps, directory.changes[done:])
    assert steps > 8
    assert directory.dangling() == []
    policy = store_of(directory).read().policy("Secured")
    assert policy is not None
    assert [rule.name for rule in policy.rules] == ["second", ""]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_sequence_of_changes_leaves_what_the_same_sequence_leaves_in_memory(seed):
    chance = random.Random(seed)
    directory = watched(FakeDirectory().with_shipped_objects())
    store = store_of(directory)
    for number in range(4):
        with store.transaction() as change:
            for _ in range(chance.randint(1, 3)):
                alter(change, chance, number)
            expected = change.read()
        found = store.read()
        for ours, theirs in (
            (expected.filter_lists, found.filter_lists),
            (expected.filter_actions, found.filter_actions),
            (expected.policies, found.policies),
        ):
            assert {one.guid: says(one) for one in ours} == {one.guid: says(one) for one in theirs}
        assert len({one.guid for one in found.policies}) == len(found.policies)


def says(entry):
    if hasattr(entry, "filters"):
        return (entry.name, len(entry.filters))
    if hasattr(entry, "rules"):
        rules = {(rule.name, rule.filter_list, rule.filter_action, rule.active) for rule in entry.rules}
        return (entry.name, entry.description, frozenset(rules), entry.main_mode_minutes)
    return (entry.name, entry.action, entry.methods, entry.soft, entry.inpass)


def alter(change, chance, number):
    """One change that is allowed."""
    objects = change.read()
    policies = [
        policy for policy in objects.policies if any(not rule.is_default_response for rule in policy.rules)
    ]
    kind = chance.randrange(6)
    if kind == 0:
        one = chance.choice(objects.filter_lists)
        change.put_filter_list(replace(one, name=f"{one.name[:30]} {number}{chance.randrange(10**6)}"))
    elif kind == 1 and objects.policies:
        one = chance.choice(objects.policies)
        change.put_policy(
            replace(one, description=f"{chance.random()}", main_mode_minutes=chance.randint(5, 500))
        )
    elif kind == 2 and policies:
        policy = chance.choice(policies)
        rules = [rule for rule in policy.rules if not rule.is_default_response]
        gone = chance.choice(rules)
        change.put_policy(replace(policy, rules=tuple(rule for rule in policy.rules if rule is not gone)))
    elif kind == 3 and policies:
        policy = chance.choice(policies)
        rules = tuple(
            replace(rule, active=not rule.active, filter_list=chance.choice(objects.filter_lists).name)
            if not rule.is_default_response
            else rule
            for rule in policy.rules
        )
        change.put_policy(replace(policy, rules=rules))
    elif kind == 4 and objects.policies:
        change.delete_policy(chance.choice(objects.policies).name)
    else:
        used = {rule.filter_list for policy in objects.policies for rule in policy.rules}
        free = [one.name for one in objects.filter_lists if one.name not in used]
        if free and len(objects.filter_lists) > 1:
            change.delete_filter_list(chance.choice(free))


def test_one_rule_with_two_filter_lists_is_left_alone():
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT)
    rule = entry(directory, ObjectClass.NFA, "secure")
    other = next(
        dn for dn, held in directory.entries.values() if held.get("ipsecname") == (b"All IP Traffic",)
        and "ipsecFilter{" in dn
    )  # fmt: skip
    rule["ipsecfilterreference"] = (*rule["ipsecfilterreference"], other.encode())
    before = directory.content()
    failed = run(directory, "ipsec static\nset rule name=secure policy=Secured activate=no", good=False)
    assert "filter lists" in failed
    assert directory.content() == before
    run(directory, "ipsec static\nset policy name=Secured description=fine")
    run(directory, "ipsec static\ndelete policy name=Secured")
    assert directory.dangling() == []


def test_a_policy_is_not_in_force_without_a_group_policy_object():
    directory = FakeDirectory().with_shipped_objects()
    failed = run(
        directory, "ipsec static\nset store location=domain\nadd policy name=P assign=yes", good=False
    )
    assert "gponame" in failed
    assert store_of(directory).read().policy("P") is None


def test_a_key_is_written_as_windows_does():
    """In clear: a directory has no other way; nothing of ours prints it."""
    directory = FakeDirectory().with_shipped_objects()
    run(directory, SCRIPT.replace("kerberos=yes", "kerberos=no psk=open-sesame"))
    policy = store_of(directory).read().policy("Secured")
    assert policy is not None
    assert policy.rules[0].authentication == (PresharedKey(Secret(b"open-sesame")),)
    assert "open-sesame" not in repr(store_of(directory).read())


def test_a_store_that_assigns_is_known_as_one():
    assert isinstance(store_of(FakeDirectory()), AssigningStore)


def test_objects_that_are_hidden_from_the_account_forbid_any_change():
    directory = FakeDirectory().with_shipped_objects()
    key = next(name for name in directory.entries if "ipsecfilter{" in name)
    del directory.entries[key][1]["objectclass"]
    with pytest.raises(StockadeError) as caught:
        store_of(directory).read()
    assert caught.value.reason.code is ReasonCode.DIRECTORY_REFUSED


def test_a_server_that_names_no_domain_is_no_controller():
    directory = FakeDirectory()
    directory.entries[""][1].pop("defaultnamingcontext")
    with pytest.raises(StockadeError, match="no domain controller"):
        store_of(directory).read()


# ---- group policy objects
GPO = f"CN={{31B2F340-016D-11D2-945F-00C04FB984F9}},CN=Policies,CN=System,{DOMAIN_DN}"


def with_gpo(directory: FakeDirectory, name: str = "Members", dn: str = GPO, **attributes) -> FakeDirectory:
    directory._store(dn, {"objectClass": ("groupPolicyContainer",), "displayName": (name,), **attributes})
    directory._store(f"CN=Machine,{dn}", {"objectClass": ("container",), "cn": ("Machine",)})
    return directory


def gpo_entry(directory: FakeDirectory) -> dict[str, tuple[bytes, ...]]:
    return directory.entries[normal_dn(GPO)][1]


def test_a_policy_is_assigned_in_a_group_policy_object_and_no_longer():
    directory = with_gpo(
        FakeDirectory().with_shipped_objects(),
        versionNumber=("131074",),
        gPCMachineExtensionNames=(
            "[{F15C46CD-82A0-4C2D-A210-5D0D3182A418}{53D6AB1D-2488-11D1-A28C-00C04FB94F17}]",
        ),
    )
    published = []
    store = DomainStore(
        lambda: directory, lambda reason: None, lambda gpo, version: published.append((gpo, version))
    )
    store.assign(SERVER, "members")
    (one,) = store.assignments()
    assert (one.gpo, one.policy) == ("Members", SERVER)
    assert gpo_entry(directory)["gpcmachineextensionnames"] == (
        b"[{E437BC1C-AA7D-11D2-A382-00C04F991E27}{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}]"
        b"[{F15C46CD-82A0-4C2D-A210-5D0D3182A418}{53D6AB1D-2488-11D1-A28C-00C04FB94F17}]",
    )
    assert gpo_entry(directory)["versionnumber"] == (b"131075",)
    store.assign(SERVER, "{31b2f340-016d-11d2-945f-00c04fb984f9}")  # nothing to do: no new version
    assert gpo_entry(directory)["versionnumber"] == (b"131075",)
    with pytest.raises(StockadeError) as caught, store.transaction() as change:
        change.delete_policy(SERVER)
    assert caught.value.reason.code is ReasonCode.IN_USE
    with pytest.raises(StockadeError, match="does not assign it"):
        store.unassign("Client (Respond Only)", "Members")
    store.unassign(SERVER, "Members")
    assert store.assignments() == ()
    assert b"E437BC1C" not in gpo_entry(directory)["gpcmachineextensionnames"][0]
    assert published[-1] == ("{31B2F340-016D-11D2-945F-00C04FB984F9}", 131076)


def test_a_name_of_two_group_policy_objects_names_none():
    directory = with_gpo(with_gpo(FakeDirectory().with_shipped_objects()), dn=GPO.replace("31B2", "41B2"))
    with pytest.raises(StockadeError, match="2 group policy objects"):
        store_of(directory).assign(SERVER, "Members")
    with pytest.raises(StockadeError, match="there is no group policy object"):
        store_of(directory).assign(SERVER, "Nobody")
    with pytest.raises(StockadeError, match="there is no policy"):
        store_of(directory).assign("Nothing", "Members")


def test_damaged_extension_names_are_not_overwritten():
    directory = with_gpo(FakeDirectory().with_shipped_objects(), gPCMachineExtensionNames=("[{broken",))
    before = directory.content()
    with pytest.raises(StockadeError, match="damaged"):
        store_of(directory).assign(SERVER, "Members")
    assert directory.content() == before


def test_the_words_of_the_command_say_what_they_need():
    directory = with_gpo(FakeDirectory().with_shipped_objects())
    domain = "ipsec static\nset store location=domain\n"
    name = f'set policy name="{SERVER}"'
    assert "gponame=" in run(directory, f"{domain}{name} assign=yes", good=False)
    assert "assign=" in run(directory, f"{domain}{name} gponame=Members", good=False)
    assert "command of its own" in run(
        directory, f"{domain}{name} gponame=Members assign=yes description=x", good=False
    )
    assert "while changes are collected" in run(
        directory, f"{domain}set batch mode=enable\n{name} gponame=Members assign=yes", good=False
    )
    assert "before the batch begins" in run(
        directory, "ipsec static\nset batch mode=enable\nset store location=domain", good=False
    )
    run(directory, f"{domain}add policy name=New\nset policy name=New assign=yes gponame=Members")
    assert [one.policy for one in store_of(directory).assignments()] == ["New"]

"""An administrator writes policies into a real directory with the words of the command language; what is
there afterwards is judged by the directory's own tools."""

import base64
import re
from pathlib import Path

import pytest
from domain_controller import PASSWORD

from stockade.agent.paths import Paths
from stockade.console.offline_command import policy_sets
from stockade.store.formats import objects_from_policy_set
from stockade.store.formats.objects import Reference, guid_text

STORE = "ipsec static\nset store location=domain domain=lab.test\n"
POLICY = """
add filterlist name=written
add filter filterlist=written srcaddr=10.79.0.2 dstaddr=10.79.0.3 protocol=ICMP description="from alpha"
add filter filterlist=written srcaddr=me dstaddr=10.79.0.0 dstmask=255.255.255.0 protocol=TCP dstport=80
add filteraction name=written qmsecmethods="ESP[3DES,SHA1]:100000k/3600s" soft=yes
add policy name=Written activatedefaultrule=no mmsecmethods="3DES-SHA1-2" pollinginterval=60
add rule name=written policy=Written filterlist=written filteraction=written kerberos=yes
"""


def printed(domain, expression: str) -> list[dict[str, list[bytes]]]:
    """What `ldbsearch` finds among the IPsec objects."""
    text = domain.controller.search(domain.container, expression)
    found = []
    for block in text.split("# record ")[1:]:
        row: dict[str, list[bytes]] = {}
        for name, mark, value in re.findall(r"(?m)^(\w+)(::?) (.*)$", block.partition("\n\n")[0]):
            row.setdefault(name, []).append(base64.b64decode(value) if mark == "::" else value.encode())
        found.append(row)
    return found


@pytest.fixture
def clean(domain):
    """The container holds afterwards what it held before."""
    before = {row["cn"][0] for row in printed(domain, "(objectClass=ipsecBase)")}
    yield
    for row in printed(domain, "(objectClass=ipsecBase)"):
        if row["cn"][0] not in before:
            domain.controller.delete(row["dn"][0].decode())


def test_what_the_commands_write_is_what_the_formats_say(domain, clean, tmp_path):
    domain.administer(STORE + POLICY)
    # A local store with the same objects, GUIDs included: what an export of it holds, byte for byte.
    dump = domain.administer(STORE + "dump").partition("\n")[2]
    script = tmp_path / "dump.netsh"
    script.write_text(dump[dump.index("ipsec static") :].replace("set store location=domain", ""))
    (policy_set,) = policy_sets(Paths.of(tmp_path / "home"), str(script))
    written = {
        guid_text(one.guid): one for one in objects_from_policy_set(policy_set, with_secrets=True).objects
    }
    rows = [
        row for row in printed(domain, "(objectClass=ipsecBase)") if row["ipsecID"][0].decode() in written
    ]
    mine = [
        row for row in rows if row.get("ipsecName") == [b"written"] or row.get("ipsecName") == [b"Written"]
    ]
    assert len(mine) == 4
    for row in mine:
        ours = written[row["ipsecID"][0].decode()]
        assert row["ipsecData"] == [ours.data]
        assert row["ipsecDataType"] == [b"256"]
        assert row["objectClass"][-1].decode() == ours.object_class.value
        assert row["cn"][0].decode() == str(ours.reference)
        forward = {
            Reference.parse(value.decode())
            for name in (
                "ipsecISAKMPReference",
                "ipsecNFAReference",
                "ipsecNegotiationPolicyReference",
                "ipsecFilterReference",
            )
            for value in row.get(name, [])
        }
        assert forward == set(ours.forward)
        assert {Reference.parse(value.decode()) for value in row.get("ipsecOwnersReference", [])} == set(
            ours.owners
        )


def test_every_static_command_works_on_the_directory(domain, clean):
    count = len(printed(domain, "(objectClass=ipsecBase)"))
    domain.administer(STORE + POLICY)
    domain.administer(
        STORE
        + "set filteraction name=written qmpfs=yes\nset filterlist name=written newname=renamed\n"
        + 'set policy name=Written mmlifetime=60 description="Second."\n'
        + "set defaultrule policy=Written activate=yes\n"
        + "add filter filterlist=renamed srcaddr=me dstaddr=10.79.0.77 protocol=UDP dstport=53\n"
        + "delete filter filterlist=renamed srcaddr=10.79.0.2 dstaddr=10.79.0.3 protocol=ICMP\n"
        + 'set rule name=written policy=Written psk="open sesame" activate=no\n'
    )
    shown = domain.administer(STORE + "show policy name=Written level=verbose")
    for word in ("Domain Store", "60 minutes", "Second.", "renamed", "PRESHARED", "10.79.0.77"):
        assert word in shown, shown
    assert "10.79.0.3" not in shown
    assert "open sesame" not in shown
    domain.administer(
        STORE + "delete policy name=Written\ndelete filterlist name=renamed\ndelete filteraction name=written"
    )
    assert len(printed(domain, "(objectClass=ipsecBase)")) == count


def test_a_local_export_is_carried_into_the_domain(domain, clean, tmp_path):
    local = "ipsec static\n" + POLICY + "set policy name=Written assign=yes\n"
    export = tmp_path / "local.ipsec"
    domain.administer(local + f'exportpolicy file="{export}"')
    said = domain.administer(STORE + f'importpolicy file="{export}"')
    assert "3 added" in said
    assert "gponame=" in said
    assert len(printed(domain, "(ipsecName=Written)")) == 4  # a directory compares without regard to case
    assert "3 were there already" in domain.administer(STORE + f'importpolicy file="{export}"')


def test_a_policy_is_assigned_in_a_group_policy_object_as_windows_does_it(domain, clean):
    controller = domain.controller
    gpo = controller.create_gpo("Assigning")
    controller.link_gpo(domain.servers, gpo)
    try:
        domain.administer(STORE + POLICY + "set policy name=Written assign=yes gponame=Assigning")
        pointer = controller.search(f"CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,{gpo}")
        (row,) = printed(domain, "(&(objectClass=ipsecPolicy)(ipsecName=Written))")
        assert f"ipsecOwnersReference: {row['dn'][0].decode()}" in pointer
        assert "objectClass: ipsecPolicy" in pointer
        told = controller.search(
            gpo, "(objectClass=*)", "gPCMachineExtensionNames", "versionNumber", scope="base"
        )
        assert "[{E437BC1C-AA7D-11D2-A382-00C04F991E27}{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}]" in told
        assert "versionNumber: 1" in told
        assert b"Version=1\r\n" in controller.sysvol(gpo, "GPT.INI")
        chain = domain.stockade("alpha", "rsop", "--domain", "lab.test", "--ou", domain.servers)
        assert "Assigning: applied" in chain
        assert "Policy: Written" in chain
        assert "AD Policy Name          : Written" in domain.administer(STORE + "show gpoassignedpolicy")
        refused = domain.administer(STORE + "delete policy name=Written", good=False)
        assert "assigned by the group policy object “Assigning”" in refused
        domain.administer(STORE + "set policy name=Written assign=no gponame=Assigning")
        assert b"Version=2\r\n" in controller.sysvol(gpo, "GPT.INI")
        chain = domain.stockade("alpha", "rsop", "--domain", "lab.test", "--ou", domain.servers)
        assert "no IPsec policy is assigned in it" in chain
    finally:
        controller.unlink_gpo(domain.servers, gpo)


def test_a_change_by_somebody_else_is_refused(domain, clean, tmp_path):
    domain.administer(STORE + POLICY)
    (row,) = printed(domain, "(&(objectClass=ipsecFilter)(ipsecName=written))")
    result = domain.python("alpha", MEANWHILE, row["dn"][0].decode())
    assert result.returncode == 0, result.stderr
    assert "somebody else has changed" in result.stdout
    (after,) = printed(domain, "(&(objectClass=ipsecFilter)(description=theirs))")
    assert after["ipsecName"] == [b"written"]


MEANWHILE = """
import sys
from dataclasses import replace
from stockade.model.reasons import StockadeError
from stockade.store.directory.domain_store import DomainStore
from stockade.store.directory.ldap import Connection, Login
store = DomainStore(lambda: Connection("dc1.lab.test", Login()), print, print)
try:
    with store.transaction() as change:
        one = change.read().filter_list("written")
        change.put_filter_list(replace(one, name="mine"))
        Connection("dc1.lab.test", Login()).modify(sys.argv[1], {"description": ("theirs",)})
except StockadeError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("security", ["ldaps", "starttls"])
def test_tls_is_taken_with_the_right_certificate_only(domain, tmp_path, security):
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    settings = (
        f'[directory]\ndomain = "lab.test"\nsecurity = "{security}"\nuser = "administrator@LAB.TEST"\n'
        f'password_file = "{password}"\nauthority = "{{authority}}"\n'
    )
    words = "ipsec static\nset store location=domain\nshow policy all"
    good = settings.format(authority=domain.controller.authority)
    assert "Client (Respond Only)" in domain.administer(words, settings=good, tickets=False)
    other = tmp_path / "other.pem"
    domain.other_authority(other)
    refused = domain.administer(words, settings=settings.format(authority=other), good=False, tickets=False)
    assert "certificate" in refused
    assert str(other) in refused
    if security == "starttls":
        # The other way to read, that of an agent: and with a wrong password.
        told = domain.stockade(
            "alpha", "rsop", "--ou", domain.servers,
            settings=good.replace("[directory]", '[kerberos]\nkeytab = "/none"\n[directory]'),
        )  # fmt: skip
        assert "Default Domain Policy" in told
        password.write_text("wrong\n")
        assert "refuses us" in domain.administer(words, settings=good, good=False, tickets=False)


def test_without_tickets_the_command_says_what_to_do(domain):
    refused = domain.administer(STORE + "show policy all", good=False, tickets=False)
    assert "kinit" in refused
    assert "Traceback" not in refused


def test_who_may_not_write_is_refused_and_nothing_is_changed(domain):
    before = printed(domain, "(objectClass=ipsecBase)")
    refused = domain.administer(STORE + POLICY, good=False, keytab=Path(domain.keytab("alpha")))
    assert "refuses us" in refused
    assert printed(domain, "(objectClass=ipsecBase)") == before

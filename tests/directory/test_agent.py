"""Two members of a domain get their policy from it, secure their traffic with Kerberos, and keep what they
have when the controller is gone."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.offline_command import policy_sets
from stockade.lab.real import Agent
from stockade.model.reasons import StockadeError
from stockade.policy.objects import PolicySet
from stockade.store.formats import objects_from_policy_set
from stockade.store.formats.objects import ObjectClass, guid_text

ADDRESSES = {"alpha": "10.79.0.2", "beta": "10.79.0.3"}
PATIENCE = 120.0
SETTINGS = """
[kerberos]
keytab = "{keytab}"
[directory]
domain = "lab.test"
refresh_seconds = 2
jitter_seconds = 0
"""
POLICY = """
ipsec static
add filterlist name=ping
add filter filterlist=ping srcaddr=10.79.0.2 dstaddr=10.79.0.3 protocol=ICMP
add filteraction name=require qmsecmethods="ESP[3DES,SHA1]"
add policy name={name} activatedefaultrule=no mmsecmethods="3DES-SHA1-2"
add rule name=secure policy={name} filterlist=ping filteraction=require kerberos=yes
"""
REFERENCES = {
    "ipsecISAKMPReference": "isakmp_policy",
    "ipsecNegotiationPolicyReference": "negotiation_policy",
}


def eventually(question: Callable[[], object], patience: float = PATIENCE) -> object:
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


class Member:
    def __init__(self, domain, name: str, home: Path) -> None:
        self.domain, self.name, self.home = domain, name, home
        self.namespace = domain[name]
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "agent.toml").write_text(SETTINGS.format(keytab=domain.keytab(name)))
        self.agent = Agent(self.namespace, home)
        self.client = AgentClient(Paths.of(home).socket, timeout=60.0)

    def status(self) -> dict:
        try:
            return self.client.get("/v1/status")
        except StockadeError:
            return {}

    def policy(self) -> str | None:
        return self.status().get("policy")

    def refused(self) -> str:
        told = (self.status().get("domain") or {}).get("refused") or {}
        return told.get("text", "")

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words, timeout=300)
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    def main_modes(self) -> list[dict]:
        rows = self.client.get("/v1/sas")["main_modes"]
        return [row for row in rows if row["established"]]

    def ping(self, peer: str) -> bool:
        argv = ["ping", "-q", "-c", "1", "-W", "20", ADDRESSES[peer]]
        return self.namespace.run(argv, check=False).returncode == 0

    def journal(self) -> str:
        return (self.home / "journal" / "journal.jsonl").read_text()


@pytest.fixture
def members(domain, tmp_path) -> Iterator[tuple[Member, Member]]:
    alpha, beta = (Member(domain, name, tmp_path / name) for name in ("alpha", "beta"))
    yield alpha, beta
    for one in (alpha, beta):
        if one.status():
            one.agent.terminate()


def put_policy(domain, tmp_path: Path, name: str) -> str:
    """Write a policy into the directory, object by object; its DN."""
    script = tmp_path / f"{name}.netsh"
    script.write_text(POLICY.format(name=name))
    (policy_set,) = policy_sets(Paths.of(tmp_path), str(script))
    controller = domain.controller
    base = f"CN=IP Security,CN=System,{controller.domain_dn}"
    objects = objects_from_policy_set(policy_set, with_secrets=False).objects
    order = (ObjectClass.FILTER, ObjectClass.NEGOTIATION_POLICY, ObjectClass.ISAKMP_POLICY, ObjectClass.NFA)
    for entry in sorted(objects, key=lambda one: (*order, ObjectClass.POLICY).index(one.object_class)):
        attributes = {
            "objectClass": ["top", "ipsecBase", entry.object_class.value],
            "ipsecID": guid_text(entry.guid),
            "ipsecDataType": "256",
            "ipsecData": entry.data,
        }
        if entry.name:
            attributes["ipsecName"] = entry.name
        for attribute, field in REFERENCES.items():
            if getattr(entry, field) is not None:
                attributes[attribute] = f"CN={getattr(entry, field)},{base}"
        for attribute, field in (("ipsecNFAReference", "rules"), ("ipsecFilterReference", "filters")):
            if getattr(entry, field):
                attributes[attribute] = [f"CN={one},{base}" for one in getattr(entry, field)]
        for attribute, field in (
            ("iPSECNegotiationPolicyType", "negotiation_type"),
            ("iPSECNegotiationPolicyAction", "negotiation_action"),
        ):
            if getattr(entry, field) is not None:
                attributes[attribute] = guid_text(getattr(entry, field))
        controller.add(f"CN={entry.reference},{base}", attributes)
    (policy,) = [one for one in objects if one.object_class is ObjectClass.POLICY]
    return f"CN={policy.reference},{base}"


def test_members_get_their_policy_secure_with_kerberos_and_keep_it(domain, members, tmp_path):
    controller, (alpha, beta) = domain.controller, members
    policy = put_policy(domain, tmp_path, "Secured")
    gpo = controller.create_gpo("Members")
    controller.link_gpo(domain.servers, gpo)
    for one in members:
        one.agent.start()
    assert eventually(lambda: alpha.status().get("domain", {}).get("age") is not None), alpha.journal()
    assert alpha.policy() is None
    controller.assign(gpo, policy)
    for one in members:
        assert eventually(lambda one=one: one.policy() and "Secured" in one.policy()), one.journal()
    assert eventually(lambda: alpha.ping("beta")), (alpha.journal(), beta.journal())
    (row,) = alpha.main_modes()
    assert row["authentication"] == "kerberos"
    assert row["peer_identity"] == "host/beta.lab.test@LAB.TEST"
    told = json.loads(alpha.stockade("rsop", "--format", "json"))
    assert (told["gpo"], told["policy"]) == ("Members", "Secured")
    assert told["filters"]
    assert "Members: applied" in alpha.stockade("rsop", "--ou", domain.servers)

    # The controller is gone: what is in force stays, also over a restart, and its age is told.
    controller.stop()
    assert eventually(alpha.refused), alpha.status()
    assert alpha.ping("beta")
    assert beta.agent.terminate() == 0
    beta.agent.start()
    assert eventually(lambda: beta.policy() and "Secured" in beta.policy()), beta.agent.last_words()
    kept = beta.status()["domain"]
    assert kept["from_copy"]
    assert kept["age"] > 0
    assert "Secured" in beta.stockade("status")
    assert "last good copy" in beta.stockade("rsop")

    # It is back, and a filter is edited: a difference reaches the driver, traffic goes on.
    controller.start()
    assert eventually(lambda: not alpha.refused()), alpha.status()
    before = {row["id"] for row in alpha.client.get("/v1/filters")["filters"]}
    printed = controller.search(policy.partition(",")[2], "(ipsecName=ping)", "dn")
    (filters,) = [line[4:] for line in printed.splitlines() if line.startswith("dn: ")]
    script = tmp_path / "more.netsh"
    more = "add filter filterlist=ping srcaddr=10.79.0.2 dstaddr=10.79.0.9 protocol=TCP\n"
    script.write_text(POLICY.format(name="x") + more)
    (wider,) = policy_sets(Paths.of(tmp_path), str(script))
    controller.replace_data(filters, filter_list_data(wider))
    assert eventually(lambda: len(alpha.client.get("/v1/filters")["filters"]) > len(before)), alpha.journal()
    assert before < {row["id"] for row in alpha.client.get("/v1/filters")["filters"]}
    assert eventually(lambda: alpha.ping("beta")), (alpha.journal(), beta.journal())

    # A damaged object: refused by name, the last good policy stays.
    controller.replace_data(filters, b"\x00" * 21)
    assert eventually(alpha.refused), alpha.status()
    assert "damaged" in alpha.refused()
    assert "Secured" in (alpha.policy() or "")
    assert eventually(lambda: alpha.ping("beta")), (alpha.journal(), beta.journal())
    controller.unlink_gpo(domain.servers, gpo)
    assert eventually(lambda: alpha.policy() is None), alpha.status()


def filter_list_data(policy_set: PolicySet) -> bytes:
    objects = objects_from_policy_set(policy_set, with_secrets=False).objects
    (entry,) = [one for one in objects if one.object_class is ObjectClass.FILTER]
    return entry.data

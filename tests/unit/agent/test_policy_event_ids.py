"""Windows' event ids of the policy agent (5456 to 5474, 5480), each made to occur by the parts that an agent
is made of: stores in files, domain policy, facts, policy keeper, core, journal. Only the data plane is in
memory, and the directory's answers are handed over as if they had just been read."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from stockade.agent.boot import Gate
from stockade.agent.core import HostCore
from stockade.agent.domain import DomainPolicy
from stockade.agent.domain_settings import DomainSettings
from stockade.agent.facts_keeper import FactsKeeper
from stockade.agent.host_facts import HostSettings, SystemFiles
from stockade.agent.journal import Journal
from stockade.agent.names import LookupFailed, NameKeeper
from stockade.agent.operations import Operations
from stockade.agent.paths import Paths
from stockade.agent.policy_keeper import PolicyKeeper
from stockade.agent.service import Service
from stockade.agent.settings import Settings
from stockade.agent.stores import Stores
from stockade.agent.web_desk import WebDesk
from stockade.driver.memory import MemoryDriver
from stockade.model.filters import FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.model.windows_events import BY_NUMBER
from stockade.policy.facts import HostFacts
from stockade.policy.group_policy import Container, ContainerKind, GpoLink, GroupPolicyObject
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, Rule
from stockade.store.directory.snapshot import DirectoryObject, Snapshot
from stockade.store.formats.ldif import _records
from stockade.store.local import LocalStore

ALPHA, BETA, OTHER = (ip_address(f"10.9.0.{host}") for host in (1, 2, 3))
DATA = Path(__file__).parents[2] / "data"
DOMAIN = "DC=lab,DC=test"
CONTAINER = f"CN=IP Security,CN=System,{DOMAIN}"
SERVER = f"CN=ipsecPolicy{{72385230-70FA-11D1-864C-14A300000000}},{CONTAINER}"
GPO = f"CN={{0B5E6A61-0000-4000-8000-000000000001}},CN=Policies,CN=System,{DOMAIN}"
UNREACHABLE = Reason.of(ReasonCode.DIRECTORY_UNREACHABLE, "nobody answers")


def snapshot() -> Snapshot:
    """A computer to which the directory assigns a policy; its objects are those of a real domain."""
    (path,) = DATA.rglob("*ipsec-objects*.ldif")
    return Snapshot(
        1_000.0,
        "lab.test",
        DOMAIN,
        f"CN=alpha,{DOMAIN}",
        "dc1.lab.test",
        containers=(Container(DOMAIN, ContainerKind.DOMAIN, (GpoLink(GPO),)),),
        gpos=(GroupPolicyObject(GPO, "Servers", pointer=SERVER),),
        objects=tuple(
            DirectoryObject(record.dn, record.attributes)
            for record in _records(path.read_text())
            if "ipsecdata" in record.attributes
        ),
    )


def damaged() -> Snapshot:
    whole = snapshot()
    broken = tuple(
        replace(one, attributes={**one.attributes, "ipsecdata": (b"\x00",)})
        if one.dn.casefold() == SERVER.casefold()
        else one
        for one in whole.objects
    )
    return replace(whole, objects=broken)


class Plane(MemoryDriver):
    """A data plane that can refuse, as one does whose nftables fails."""

    def __init__(self) -> None:
        super().__init__(lambda packet: None, lambda packet: None)
        self.refuses = False

    def install_filters(self, table: FilterTable) -> None:
        if self.refuses:
            raise error_for(ReasonCode.DRIVER_FAILED, "nft: no space left")
        super().install_filters(table)


def put(path: Path, end: FilterAddress) -> None:
    """An assigned policy in a store: what goes to `end` is secured."""
    key = (PresharedKey(Secret(b"a secret thing")),)
    rule = Rule("secure", "list", "action", key, guid=UUID(int=4))
    with LocalStore(path).transaction() as change:
        change.put_filter_list(FilterList("list", (Filter(FilterAddress.me(), end),), guid=UUID(int=1)))
        change.put_filter_action(FilterAction("action", guid=UUID(int=2)))
        change.put_policy(Policy("test", (rule,), assigned=True, guid=UUID(int=3)))


class Rig:
    """The parts of one agent in the folder `home`, joined as `Service` joins them."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths.of(home)
        self.paths.make_folders()
        self.local = [ALPHA]
        self.driver, self.stores = Plane(), Stores(self.paths)
        self.journal = Journal(self.paths.journal)
        names = NameKeeper(lambda: None, resolve=self._nobody_knows)
        self.names = names
        self.facts = FactsKeeper(names, HostSettings(), SystemFiles(home / "root"), self._read_facts)
        self.domain = DomainPolicy(
            DomainSettings("lab.test"),
            home / "none.keytab",
            self.paths.domain,
            self.journal.write,
            lambda: self.keeper.load_quietly(),
            tuple,
        )
        self.keeper = PolicyKeeper(
            self.paths,
            Settings(fetch_revocation_lists=False),
            self.stores,
            Gate(None),
            None,
            self.facts,
            self.domain,
            self.journal.write,
            lambda: None,
        )
        self.stores.domain = self.domain.policy_sets

    def begin(self) -> "Rig":
        self.driver.start()
        self.facts.refresh()
        self.domain.start()
        self.core = HostCore(self.driver, self.facts.facts, bytes, journal=self.journal.write)
        desk = WebDesk(self.stores, self.journal.write, self.core.log_key_exchange)
        self.keeper.begin(self.core, desk)
        return self

    def close(self) -> None:
        self.names.close()
        self.journal.close()

    def ids(self) -> set[int]:
        return {number for record in self.journal.recent for number in record["windows_events"]}

    def _nobody_knows(self, name: str) -> tuple[()]:
        raise LookupFailed("nobody knows it")

    def _read_facts(self, files: SystemFiles, settings: HostSettings) -> HostFacts:
        if not self.local:
            raise error_for(ReasonCode.DRIVER_FAILED, "the kernel does not answer")
        return HostFacts.of(self.local)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "home")
    put(made.paths.policy, FilterAddress.of(BETA))
    yield made
    made.close()


# ---- what makes them occur


def domain_read(rig: Rig) -> None:
    rig.begin().domain._accept(snapshot())


def domain_read_that_the_data_plane_refuses(rig: Rig) -> None:
    rig.begin().driver.refuses = True
    rig.domain._accept(snapshot())


def _keep_copy(rig: Rig) -> None:
    before = Rig(rig.paths.policy.parent)
    before.begin().domain._accept(snapshot())
    before.close()
    assert rig.paths.domain.exists(), "what is in force is kept"


def start_with_the_copy(rig: Rig) -> None:
    _keep_copy(rig)
    rig.begin()


def start_with_a_damaged_copy(rig: Rig) -> None:
    _keep_copy(rig)
    rig.paths.domain.write_bytes(rig.paths.domain.read_bytes()[:-9])
    rig.begin()


def start(rig: Rig) -> None:
    rig.begin()


def local_policy_that_nobody_can_secure(rig: Rig) -> None:
    rig.begin()
    put(rig.paths.policy, FilterAddress.of(ip_address("224.0.0.9")))
    rig.keeper.look()


def a_name_that_nobody_knows(rig: Rig) -> None:
    put(rig.paths.policy, FilterAddress.named("peer.invalid"))
    rig.begin()


def another_process_changes_the_store(rig: Rig) -> None:
    rig.begin()
    put(rig.paths.policy, FilterAddress.of(OTHER))
    rig.keeper.look()


def an_address_comes(rig: Rig) -> None:
    rig.begin().local.append(OTHER)
    assert rig.facts.refresh()
    rig.keeper.apply_facts(0.0)


def reload(rig: Rig) -> None:
    Operations.reload(  # what `stockade netsh` has done
        SimpleNamespace(domain=rig.domain, policy=rig.keeper, log=rig.journal, core=rig.core)
    )


def reload_asked_for(rig: Rig) -> None:
    rig.begin()
    reload(rig)


def no_controller_after_one_was_read(rig: Rig) -> None:
    domain_read(rig)
    rig.domain._failed(UNREACHABLE)


def the_same_again_after_silence(rig: Rig) -> None:
    no_controller_after_one_was_read(rig)
    rig.domain._accept(snapshot())


def the_same_as_in_the_copy(rig: Rig) -> None:
    start_with_the_copy(rig)
    rig.domain._accept(snapshot())


def junk_in_the_store(rig: Rig) -> None:
    rig.begin()
    rig.paths.policy.unlink()
    rig.paths.policy.write_bytes(b"junk")
    rig.keeper.look()


def no_controller_ever(rig: Rig) -> None:
    rig.begin().domain._failed(UNREACHABLE)


def an_answer_that_nobody_can_use(rig: Rig) -> None:
    rig.begin()
    with pytest.raises(StockadeError) as caught:
        rig.domain._accept(damaged())
    assert caught.value.reason.code is ReasonCode.DIRECTORY_UNREADABLE
    rig.domain._failed(caught.value.reason)


def interfaces_cannot_be_listed(rig: Rig) -> None:
    rig.begin().local.clear()
    Service._reread_facts(SimpleNamespace(_settling=None, _facts=rig.facts, _journal=rig.journal))


# What happens; the ids that come by it, those that must not.
TABLE: tuple[tuple[Callable[[Rig], None], set[int], set[int]], ...] = (
    (start, {5460, 5471}, {5456, 5464, 5465}),
    (domain_read, {5456, 5468, 5473}, {5457, 5466, 5467}),
    (domain_read_that_the_data_plane_refuses, {5457}, {5456, 5461}),
    (start_with_the_copy, {5458, 5456}, {5460, 5468}),
    (start_with_a_damaged_copy, {5459, 5460}, {5458, 5456}),
    (local_policy_that_nobody_can_secure, {5461}, {5464, 5472}),
    (a_name_that_nobody_knows, {5462}, {5461}),
    (another_process_changes_the_store, {5464, 5460}, {5465}),
    (an_address_comes, {5464}, {5465, 5480}),
    (reload_asked_for, {5465}, {5464}),
    (no_controller_after_one_was_read, {5466}, {5474}),
    (the_same_again_after_silence, {5467}, {5474}),
    (the_same_as_in_the_copy, {5467}, {5468}),
    (junk_in_the_store, {5472}, {5461, 5464}),
    (no_controller_ever, {5474}, {5466}),
    (an_answer_that_nobody_can_use, {5474}, {5466, 5468}),
    (interfaces_cannot_be_listed, {5480}, {5464}),
)


@pytest.mark.parametrize(("make", "come", "stay_away"), TABLE, ids=[row[0].__name__ for row in TABLE])
def test_what_happens_to_a_policy_carries_its_ids(
    rig: Rig, make: Callable[[Rig], None], come: set[int], stay_away: set[int]
) -> None:
    make(rig)
    told = [(one["kind"], one["text"], one["windows_events"]) for one in rig.journal.recent]
    assert come <= rig.ids(), told
    assert not stay_away & rig.ids(), told
    assert "a secret thing" not in str(rig.journal.recent)


def test_every_id_of_the_policy_agent_that_can_occur_is_made_to() -> None:
    made = set().union(*(come for _, come, _ in TABLE))
    can = {one.number for one in BY_NUMBER.values() if 5456 <= one.number <= 5474 and one.carriers}
    assert can == made - {5480}
    assert {one for one in range(5456, 5475) if one in BY_NUMBER and one not in can} == {5463}


def test_a_reload_that_is_refused_is_not_told_as_done(rig: Rig) -> None:
    rig.begin()
    put(rig.paths.policy, FilterAddress.of(ip_address("224.0.0.9")))
    reload(rig)
    assert rig.keeper.refusal is not None
    assert 5461 in rig.ids()
    assert 5465 not in rig.ids()

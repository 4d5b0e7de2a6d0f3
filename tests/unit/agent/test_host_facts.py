"""What the host knows of itself: files of several makers, bad ones too, and the keeper that reads them."""

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.agent.facts_keeper import FactsKeeper, names_of
from stockade.agent.host_facts import (
    HostSettings,
    SystemFiles,
    name_servers,
    read_host_facts,
    read_lease,
    read_servers,
)
from stockade.agent.names import NameKeeper
from stockade.policy.facts import HostFacts
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule

DHCLIENT = """
lease {
  interface "eth0";
  option dhcp-server-identifier 10.0.0.1;
  option netbios-name-servers 10.0.0.8,10.0.0.9;
}
lease {
  interface "eth1";
  option dhcp-server-identifier 10.1.0.1;
}
lease {
  interface "eth0";
  option dhcp-server-identifier 10.0.0.2;
}
"""


def addresses(*texts):
    return tuple(map(ip_address, texts))


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_newest_lease_of_each_interface_counts():
    assert read_lease(DHCLIENT) == (addresses("10.1.0.1", "10.0.0.2"), ())
    first = DHCLIENT.split('lease {\n  interface "eth1"')[0]
    assert read_lease(first) == (addresses("10.0.0.1"), addresses("10.0.0.8", "10.0.0.9"))
    assert read_lease("ADDRESS=10.0.0.7\nSERVER_ADDRESS=10.0.0.3\n") == (addresses("10.0.0.3"), ())


def test_behind_a_resolver_of_this_host_stand_those_that_it_asks(tmp_path):
    write(tmp_path, "etc/resolv.conf", "search example\nnameserver 127.0.0.53\n")
    files = SystemFiles(tmp_path)
    assert read_servers(files).dns == ()
    write(tmp_path, "run/systemd/resolve/resolv.conf", "nameserver 10.0.0.53\nnameserver fd00::53\n")
    assert read_servers(files).dns == addresses("10.0.0.53", "fd00::53")
    write(tmp_path, "etc/resolv.conf", "nameserver 10.9.9.9\n")
    assert read_servers(files).dns == addresses("10.9.9.9")


def test_leases_of_all_makers_are_read(tmp_path):
    write(tmp_path, "run/systemd/netif/leases/2", "SERVER_ADDRESS=10.0.0.1\n")
    write(tmp_path, "var/lib/NetworkManager/internal-a-eth0.lease", "SERVER_ADDRESS=10.0.0.2\n")
    write(tmp_path, "var/lib/dhcp/dhclient.eth0.leases", DHCLIENT)
    found = read_servers(SystemFiles(tmp_path))
    assert found.dhcp == addresses("10.0.0.1", "10.0.0.2", "10.1.0.1")


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_gives_addresses_or_nothing(text):
    for variant in (text, f"nameserver {text}", f"SERVER_ADDRESS={text}",
                    f'lease {{\n interface "{text}";\n option dhcp-server-identifier {text};'):  # fmt: skip
        name_servers(variant)
        read_lease(variant)


def test_what_the_settings_say_stands_in_place_of_what_is_found(tmp_path):
    write(tmp_path, "etc/resolv.conf", "nameserver 10.9.9.9\n")
    given_ = HostSettings(dns_servers=addresses("10.0.0.53"), gateways=())
    facts = read_host_facts(SystemFiles(tmp_path), given_)
    assert facts.dns_servers == addresses("10.0.0.53")
    assert facts.gateways == ()
    assert facts.knows_connections or not facts.addresses


class Reader:
    def __init__(self):
        self.facts = HostFacts.of(addresses("10.0.0.1"))

    def __call__(self, files, settings):
        return self.facts


def keeper(tmp_path, reader):
    return FactsKeeper(NameKeeper(lambda: None), HostSettings(), SystemFiles(tmp_path), reader, lambda: 5.0)


def test_the_keeper_tells_what_changed(tmp_path):
    reader = Reader()
    facts = keeper(tmp_path, reader)
    assert facts.refresh()
    assert not facts.refresh()
    reader.facts = HostFacts.of(addresses("10.0.0.1", "10.0.0.2"))
    assert facts.refresh()
    assert facts.facts.local == addresses("10.0.0.1", "10.0.0.2")
    assert not facts.files_changed()
    write(tmp_path, "etc/resolv.conf", "nameserver 10.9.9.9\n")
    assert facts.files_changed()
    facts.refresh()
    assert not facts.files_changed()


def test_names_are_those_of_active_rules():
    lists = tuple(
        FilterList(name, (Filter(FilterAddress.me(), FilterAddress.named(f"{name}.example")),))
        for name in ("used", "idle", "unused")
    )
    rules = (Rule("a", "used", "act"), Rule("b", "idle", "act", active=False))
    policies = PolicySet((Policy("p", rules, assigned=True),), lists, (FilterAction("act"),))
    assert names_of([policies], None) == {"used.example"}

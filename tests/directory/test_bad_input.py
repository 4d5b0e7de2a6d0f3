"""What a directory can do to those that read it: hang half-way, hold what nobody should believe, or much."""

import subprocess
import sys
import time

import pytest
from domain_controller import NETNS_FILES, PASSWORD

from stockade.agent.domain_settings import Request
from stockade.store.directory.evaluation import evaluate
from stockade.store.directory.snapshot import Snapshot, decode_snapshot

STALLING = "stall.lab.test"
PROXY = """
import socket, sys, threading
limit = int(sys.argv[1])
door = socket.create_server(("10.79.0.3", 389))
print("ready", flush=True)
def pump(source, sink, limit):
    sent = 0
    while data := source.recv(65536):
        if limit is not None:
            data = data[: max(0, limit - sent)]
        sent += len(data)
        if data:
            sink.sendall(data)
while True:
    client, _ = door.accept()
    server = socket.create_connection(("10.79.0.1", 389))
    threading.Thread(target=pump, args=(client, server, None), daemon=True).start()
    threading.Thread(target=pump, args=(server, client, limit), daemon=True).start()
"""


def fetch(domain, **words: object) -> tuple[bytes, bytes]:
    """What the reading program of an agent on alpha answers: its kind, and the rest."""
    request = Request(**{"domain": "lab.test", "keytab": str(domain.keytab("alpha")), **words})
    done = subprocess.run(
        domain["alpha"].argv([sys.executable, "-m", "stockade.agent.domain_fetch"]),
        input=request.encode(), capture_output=True, timeout=400, check=False,
        env=domain.environment(tickets=False),
    )  # fmt: skip
    kind, _, rest = done.stdout.partition(b"\n")
    return kind, rest


def snapshot(domain, **words: object) -> Snapshot:
    kind, rest = fetch(domain, **words)
    assert kind == b"snapshot", (kind, rest[:1000])
    return decode_snapshot(rest)


@pytest.fixture
def stalling(domain):
    """A way to the controller that delivers so many octets of its answers and then nothing more."""
    hosts = NETNS_FILES / domain["alpha"].full_name / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n10.79.0.3 {STALLING}\n")
    domain.controller.tool("spn", "add", f"ldap/{STALLING}", "DC1$")
    proxies = []

    def start(limit: int) -> None:
        proxy = domain["beta"].popen([sys.executable, "-c", PROXY, str(limit)], stdout=subprocess.PIPE)
        proxies.append(proxy)
        assert proxy.stdout.readline() == "ready\n"

    yield start
    for proxy in proxies:
        proxy.terminate()
        proxy.wait(30)
        proxy.stdout.close()
    hosts.unlink()
    domain.controller.tool("spn", "delete", f"ldap/{STALLING}", "DC1$")


@pytest.mark.parametrize("limit", [20, 3000])
def test_a_controller_that_hangs_half_way_is_left_for_the_next(domain, stalling, limit):
    """In the bind, and in the middle of the objects."""
    stalling(limit)
    found = snapshot(domain, controllers=(STALLING, "dc1.lab.test"))
    assert found.controller == "dc1.lab.test"
    assert len(found.objects) >= 22


def test_a_command_at_a_controller_that_hangs_says_so(domain, stalling):
    stalling(3000)
    settings = f'[directory]\ndomain = "lab.test"\ncontrollers = ["{STALLING}"]\n'
    script = "ipsec static\nset store location=domain\nshow policy all"
    refused = domain.administer(script, settings=settings, good=False)
    assert "no domain controller answers" in refused
    assert STALLING in refused


MORE = """
from stockade.store.directory.ldap import Connection, Login, Scope
found = Connection("dc1.lab.test", Login()).search("CN=Crowd,DC=lab,DC=test", Scope.ONE, ["cn"])
print(len(found), len({row.text("cn") for row in found}))
"""


def test_more_entries_than_a_controller_gives_at_once_are_all_read(domain):
    crowd = f"CN=Crowd,{domain.controller.domain_dn}"
    names = [crowd, *(f"CN=c{number},{crowd}" for number in range(1010))]
    domain.controller.modify(
        "\n".join(f"dn: {name}\nchangetype: add\nobjectClass: container\n" for name in names)
    )
    try:
        done = domain.python("alpha", MORE)
        assert (done.returncode, done.stdout) == (0, "1010 1010\n"), done.stderr
    finally:
        domain.controller.modify("\n".join(f"dn: {name}\nchangetype: delete\n" for name in reversed(names)))


def test_a_controller_that_refuses_the_login_is_left_for_the_next(domain):
    """The name has an address, and Kerberos knows no such service."""
    hosts = NETNS_FILES / domain["alpha"].full_name / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.79.0.1 unknown.lab.test\n")
    try:
        kind, rest = fetch(domain, controllers=("unknown.lab.test",))
        assert kind == b"refused"
        assert b"DIRECTORY_REFUSED" in rest
        assert b"unknown.lab.test" in rest
        found = snapshot(domain, controllers=("unknown.lab.test", "dc1.lab.test"))
        assert found.controller == "dc1.lab.test"
    finally:
        hosts.unlink()


MANY = """
import sys
from ipaddress import IPv4Address
from stockade.policy.objects import Filter, FilterAddress, FilterList
from stockade.store.directory.domain_store import DomainStore
from stockade.store.directory.ldap import Connection, Login
store = DomainStore(lambda: Connection("dc1.lab.test", Login()), print, print)
filters = tuple(
    Filter(FilterAddress.me(), FilterAddress.of(IPv4Address("10.80.0.0") + number)) for number in range(5000)
)
with store.transaction() as change:
    if sys.argv[1] == "put":
        change.put_filter_list(FilterList("Many", filters))
    else:
        change.delete_filter_list("Many")
"""


def test_five_thousand_filters_in_one_object_are_written_and_read(domain):
    assert (done := domain.python("alpha", MANY, "put")).returncode == 0, done.stderr
    try:
        evaluation = evaluate(snapshot(domain))
        (many,) = [one for one in evaluation.policy_set.filter_lists if one.name == "Many"]
        assert len(many.filters) == 5000
        assert str(many.filters[-1].destination) == "10.80.19.135"
    finally:
        assert (done := domain.python("alpha", MANY, "delete")).returncode == 0, done.stderr


def test_objects_that_did_not_change_are_not_read_again(domain):
    first = snapshot(domain)
    again = snapshot(domain, known=first.stamp)
    assert again.unchanged
    assert again.objects == ()
    assert again.with_objects_of(first).objects == first.objects
    row = domain.controller.search(domain.container, "(ipsecName=All IP Traffic)", "dn")
    (dn,) = [line[4:] for line in row.splitlines() if line.startswith("dn: ")]
    change = "dn: {}\nchangetype: modify\nreplace: description\ndescription: {}\n"
    time.sleep(1.1)  # a directory's clock for changes has whole seconds
    domain.controller.modify(change.format(dn, "once more"))
    changed = snapshot(domain, known=first.stamp)
    assert not changed.unchanged
    assert not changed.same_content(first)


def test_a_link_into_another_domain_is_not_followed(domain):
    """A referral leads nowhere; the object counts as one that cannot be read."""
    controller = domain.controller
    foreign = "CN={11111111-1111-1111-1111-111111111111},CN=Policies,CN=System,DC=elsewhere,DC=test"
    write = "dn: {}\nchangetype: modify\nreplace: gPLink\n{}"
    controller.modify(write.format(domain.servers, f"gPLink: [LDAP://{foreign};0]\n"))
    try:
        found = snapshot(domain)
        (gpo,) = [one for one in found.gpos if "elsewhere" in one.dn]
        assert not gpo.readable
        assert evaluate(found).policy is None
        told = domain.stockade(
            "alpha", "rsop", "--domain", "lab.test", "--computer", "CN=x,DC=elsewhere,DC=test", good=False
        )
        assert "Traceback" not in told
        assert "elsewhere" in told
    finally:
        controller.modify(write.format(domain.servers, ""))


def test_a_password_never_goes_to_a_server_without_tls(domain, tmp_path):
    """Something that listens where a controller would, and writes down what it hears."""
    heard = tmp_path / "heard"
    with domain["beta"].popen(
        [sys.executable, "-c", LISTENER, str(heard)], stdout=subprocess.PIPE
    ) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        result = domain.python("alpha", BIND, PASSWORD)
        listener.terminate()
    assert result.returncode == 0, result.stderr
    assert "TLS cannot be established" in result.stdout or "answers" in result.stdout
    assert heard.read_bytes(), "it was asked"
    assert PASSWORD.encode() not in heard.read_bytes()


LISTENER = """
import socket, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    door = socket.create_server(("10.79.0.3", 389))
    print("ready", flush=True)
    while True:
        client, _ = door.accept()
        client.settimeout(5)
        try:
            while data := client.recv(4096):
                file.write(data)
                # what StartTLS gets: success, and then no TLS
                client.sendall(bytes.fromhex("300c02010178070a010004000400"))
        except OSError:
            pass
        client.close()
"""
BIND = """
import sys
from stockade.model.reasons import StockadeError
from stockade.model.secret import Secret
from stockade.store.directory.ldap import Connection, Login, Security
login = Login(Security.STARTTLS, user="administrator@LAB.TEST", password=Secret(sys.argv[1].encode()))
try:
    Connection("10.79.0.3", login, 8.0)
except StockadeError as error:
    print(error.reason)
else:
    sys.exit("it was bound")
"""

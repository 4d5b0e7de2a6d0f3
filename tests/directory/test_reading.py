"""A real directory is read as a computer of the domain reads it."""

import json
import re
import subprocess
import sys
from pathlib import Path

from stockade.store.directory.evaluation import evaluate
from stockade.store.directory.snapshot import decode_snapshot

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "samba-ipsec-objects.ldif"

READER = """
import sys, json
from pathlib import Path
from stockade.model.reasons import StockadeError
from stockade.store.directory.ldap import Connection, Login
from stockade.store.directory.locator import locate
from stockade.store.directory.reading import read_snapshot
from stockade.store.directory.snapshot import encode_snapshot
keytab, principal = sys.argv[1:3]
try:
    login = Login(keytab=Path(keytab), principal=principal)
    with Connection(locate("lab.test", "Default-First-Site-Name")[0], login) as connection:
        sys.stdout.buffer.write(encode_snapshot(read_snapshot(connection,
        account=principal.partition("@")[0])))
except StockadeError as error:
    sys.exit(str(error.reason))
"""
CLIENT = "ipsecPolicy{72385236-70FA-11D1-864C-14A300000000}"


def read(domain, name="alpha") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", READER, str(domain.keytab(name)), f"{name}$@LAB.TEST"]
    return domain[name].run(argv, check=False)


def test_the_shipped_objects_are_read_over_a_sealed_connection(domain, tmp_path):
    capture = tmp_path / "wire.pcap"
    with domain["dc"].popen([sys.executable, "-c", CAPTURE, str(capture)], stdout=subprocess.PIPE) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == "ready\n"
        result = read(domain)
        sniffer.terminate()
    assert result.returncode == 0, result.stderr
    snapshot = decode_snapshot(result.stdout.encode())
    names = {one.dn.partition(",")[0] for one in snapshot.objects}
    shipped = re.findall(r"^dn: (CN=[^,]+),CN=IP Security,", SHIPPED.read_text(encoding="utf-8"), re.M)
    assert len(shipped) == 22
    assert names >= set(shipped)  # other tests write more into the same directory
    assert snapshot.hidden == 0
    assert snapshot.controller == "dc1.lab.test"
    assert snapshot.site == "Default-First-Site-Name"
    assert [one.dn for one in snapshot.containers][1:] == ["DC=lab,DC=test", domain.servers]
    found = evaluate(snapshot)
    assert {one.name for one in found.policy_set.policies} >= {
        "Server (Request Security)",
        "Client (Respond Only)",
        "Secure Server (Require Security)",
    }
    assert found.policy is None
    sent = capture.read_bytes()
    assert b"gss-spnego" in sent.lower() or b"GSSAPI" in sent, "the capture has seen the bind"
    for clear in (b"ipsecData", b"ipsecPolicy{", "Request Security".encode("utf-16-le")):
        assert clear not in sent


CAPTURE = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
with open(sys.argv[1], "wb", buffering=0) as file:
    print("ready", flush=True)
    while True:
        data = wire.recv(65536)
        if b"\\x01\\x85" in data[34:38]:  # a port of 389
            file.write(data)
"""


def test_a_gpo_of_the_ou_brings_its_policy(domain):
    controller = domain.controller
    gpo = controller.create_gpo("Servers")
    controller.link_gpo(domain.servers, gpo)
    controller.assign(gpo, f"CN={CLIENT},CN=IP Security,CN=System,{controller.domain_dn}")
    try:
        result = read(domain)
        assert result.returncode == 0, result.stderr
        found = evaluate(decode_snapshot(result.stdout.encode()))
        assert found.policy is not None
        assert found.policy.name == "Client (Respond Only)"
        assert found.resultant.winner is not None
        assert found.resultant.winner.gpo.name == "Servers"
    finally:
        controller.unlink_gpo(domain.servers, gpo)


def test_a_wrong_keytab_is_refused_with_the_controllers_name(domain, tmp_path):
    argv = [sys.executable, "-c", READER, str(tmp_path / "none.keytab"), "alpha$@LAB.TEST"]
    result = domain["alpha"].run(argv, check=False)
    assert result.returncode != 0
    assert "the domain controller refuses us" in result.stderr
    assert "dc1.lab.test" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_tool_of_the_domain_prints_is_what_we_read(domain):
    result = read(domain)
    ours = {one["dn"] for one in json.loads(result.stdout)["objects"]}
    printed = domain.controller.search(
        f"CN=IP Security,CN=System,{domain.controller.domain_dn}", "(objectClass=ipsecBase)", "dn"
    )
    assert ours == {line[4:] for line in printed.splitlines() if line.startswith("dn: ")}

"""A cluster whose address moves, with real packets: how long until the client's pings are answered again.

    client ──┬── one ┐
             └── two ┘ one virtual address, which moves from one to two when one is killed with SIGKILL

The same is done with Stockade and with strongSwan (IKEv2, its user-space ESP, a tunnel to the virtual
address), on the same machine, one after the other. The moment that counts from is when the address is on the
second node and announced by ARP. Nothing here knows more about either product than a user does. Root.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

from stockade.lab import moving, netns
from stockade.lab.errors import LabError
from stockade.lab.examples import STOCKADE
from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent, Follower
from stockade.lab.story import FailoverResult

CLIENT, ONE, TWO = "10.98.0.1", "10.98.0.11", "10.98.0.12"
VIRTUAL = IPv4Interface("10.98.0.100/24")
CLIENT_INSIDE, NODE_INSIDE = "10.98.71.1", "10.98.72.1"
STOCKADE_LIMIT, TIGHT_LIMIT, DEFAULT_LIMIT = 20.0, 20.0, 10.0
FIRST_ANSWER_SECONDS = 15.0
PLUGIN = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")

POLICY = """
ipsec static
add filterlist name=cluster
add filter filterlist=cluster srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AESGCM128,None]"
add policy name=cluster activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=cluster policy=cluster filterlist=cluster filteraction=require psk="EXAMPLE-ONLY-of-the-demo"
set policy name=cluster assign=yes
"""

_FOLDERS = "x509 x509ca x509aa x509ac x509crl x509ocsp pubkey private rsa ecdsa bliss pkcs8 pkcs12 conf.d"
_TIGHT = "retransmit_tries = 2\n  retransmit_timeout = 1.0\n  retransmit_base = 1.0"


def measure() -> FailoverResult:
    """All three, in about half a minute. LabError where the cluster does not come up."""
    with _network() as network, _folder() as folder:
        ours = _stockade(network, folder)
    missing = strongswan_missing()
    if missing is not None:
        return FailoverResult(ours, no_strongswan=missing)
    try:
        results = []
        for tight, limit in ((True, TIGHT_LIMIT), (False, DEFAULT_LIMIT)):
            with _network() as network, _folder() as folder:
                results.append(_strongswan(network, folder, tight=tight, limit=limit))
    except LabError as error:
        return FailoverResult(ours, no_strongswan=str(error))
    return FailoverResult(ours, results[0], results[1], DEFAULT_LIMIT)


def strongswan_missing() -> str | None:
    """Why strongSwan cannot be measured here."""
    if find_program("charon-systemd") is None or find_program("swanctl") is None:
        return "strongSwan is not installed (Debian: charon-systemd, strongswan-swanctl)"
    if not PLUGIN.exists():
        return "strongSwan's plugin kernel-libipsec is not installed (Debian: libcharon-extra-plugins)"
    return None


def _network() -> Network:
    hosts = {"client": CLIENT, "one": ONE, "two": TWO}
    return Network({name: IPv4Interface(f"{address}/24") for name, address in hosts.items()})


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = netns.make_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(network: Network) -> float:
    """The address goes from one to two; when it had arrived, on the monotonic clock."""
    moving.take(network["one"], VIRTUAL)
    moving.give(network["two"], VIRTUAL)
    return time.monotonic()


def _stockade(network: Network, folder: Path) -> float | None:
    (folder / "cluster.key").write_bytes(os.urandom(32).hex().encode())
    (folder / "cluster.key").chmod(0o600)
    agents = {}
    for name, peer in (("client", str(VIRTUAL.ip)), ("one", CLIENT), ("two", CLIENT)):
        home = folder / name
        script = folder / f"{name}.netsh"
        script.write_text(POLICY.format(peer=peer))
        argv = [*STOCKADE, "--home", str(home), "netsh", "-f", str(script)]
        subprocess.run(argv, capture_output=True, timeout=netns.COMMAND_SECONDS, check=True)
        if name != "client":
            (home / "agent.toml").write_text(
                f'[cluster]\nnode = "{name}"\naddresses = ["{VIRTUAL.ip}"]\n'
                f'members = {{ one = "{ONE}", two = "{TWO}" }}\nsecret_file = "{folder}/cluster.key"\n'
            )
        agents[name] = Agent(network[name], home)
    moving.give(network["one"], VIRTUAL)
    for agent in agents.values():
        agent.start()
    for agent in agents.values():
        agent.wait_until_ready()
    with Follower(network["client"], str(VIRTUAL.ip)) as follower:
        if follower.wait_for_answer(0.0, FIRST_ANSWER_SECONDS) is None:
            raise LabError("the cluster does not answer the client before anything happened")
        time.sleep(1.0)  # the nodes tell each other what they have
        agents["one"].kill()
        moved = _move(network)
        answered = follower.wait_for_answer(moved, STOCKADE_LIMIT)
    return None if answered is None else answered - moved


# ---- strongSwan


def _strongswan(network: Network, folder: Path, *, tight: bool, limit: float) -> float | None:
    moving.give(network["one"], VIRTUAL)
    charons = {name: _start_charon(network[name], folder / name, tight) for name in ("client", "one", "two")}
    for name in charons:
        _load(network[name], folder / name)
    done = _swanctl(
        network["client"], folder / "client", "--initiate", "--child", "traffic", "--timeout", "10"
    )
    if done.returncode:
        raise LabError(f"strongSwan's tunnel did not come up: {done.stdout.strip().splitlines()[-1:]}")
    with Follower(network["client"], NODE_INSIDE) as follower:
        if follower.wait_for_answer(0.0, FIRST_ANSWER_SECONDS) is None:
            raise LabError("strongSwan's tunnel carries no ping")
        time.sleep(1.0)
        charons["one"].kill()
        charons["one"].wait()
        moved = _move(network)
        answered = follower.wait_for_answer(moved, limit)
    return None if answered is None else answered - moved


def _start_charon(host: Namespace, folder: Path, tight: bool) -> "subprocess.Popen[str]":
    for each in _FOLDERS.split():
        (folder / "swanctl" / each).mkdir(parents=True)
    modules = "random nonce openssl hmac kdf gcm aes des sha1 sha2 kernel-libipsec kernel-netlink"
    (folder / "strongswan.conf").write_text(
        f"""charon-systemd {{
  load = {modules} socket-default vici
  {_TIGHT if tight else ""}
  journal {{ default = -1 }}
  plugins {{
    vici {{ socket = unix://{folder}/vici }}
    kernel-libipsec {{ load = yes }}
    kernel-netlink {{ fwmark = !0x42 }}
    socket-default {{ fwmark = 0x42 }}
  }}
}}
swanctl {{ load = random openssl }}
"""
    )
    ends = ((CLIENT, CLIENT_INSIDE), (str(VIRTUAL.ip), NODE_INSIDE))
    (own, inside), (peer, behind) = ends if host.name == "client" else ends[::-1]
    host.ip(f"address add {inside}/32 dev lo")
    delay, action = ("dpd_delay = 2s", "dpd_action = restart") if tight else ("", "")
    (folder / "swanctl" / "swanctl.conf").write_text(
        f"""connections {{ peer {{
    version = 2
    local_addrs = {own}
    remote_addrs = {peer}
    proposals = aes128-sha256-ecp256
    {delay}
    local {{ auth = psk
      id = {own} }}
    remote {{ auth = psk
      id = {peer} }}
    children {{ traffic {{
        local_ts = {inside}/32
        remote_ts = {behind}/32
        {action}
        esp_proposals = aes128gcm16 }} }}
}} }}
secrets {{ ike-peer {{ secret = "EXAMPLE-ONLY-of-the-demo" }} }}
"""
    )
    charon = find_program("charon-systemd")
    assert charon is not None
    return host.popen([charon], environment={"STRONGSWAN_CONF": str(folder / "strongswan.conf")})


def _load(host: Namespace, folder: Path) -> None:
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while _swanctl(host, folder, "--load-all").returncode:
        if time.monotonic() > deadline:
            raise LabError("strongSwan did not start")
        time.sleep(0.1)


def _swanctl(host: Namespace, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {"STRONGSWAN_CONF": str(folder / "strongswan.conf"), "SWANCTL_DIR": str(folder / "swanctl")}
    return host.run(
        ["swanctl", *words, "--uri", f"unix://{folder}/vici"], check=False, environment=environment
    )

"""`[cluster]` of `agent.toml`.

    [cluster]
    node = "one"                          # this node's name; default: the host's
    addresses = ["192.0.2.10"]            # the virtual addresses
    members = { one = "192.0.2.1", two = "192.0.2.2" }    # each node's own address, this one's too
    secret_file = "/etc/stockade/cluster.key"             # the same on all nodes, for their owner only
    port = 4550                           # UDP between the nodes
    hook = ["/usr/local/sbin/peer-moved"] # when a peer comes that another node serves

`addresses` alone makes a node that says that it is one of a cluster and watches the address, without others.
"""

import os
import socket
import stat
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from stockade.cluster.settings import DEFAULT_PORT, ClusterSettings
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret

MAXIMUM_SECRET = 4096
_KEYS = {"node", "addresses", "members", "secret_file", "port", "hook"}


def read_cluster(path: Path, table: object) -> ClusterSettings | None:
    """The settings, None where there is no such table. Errors: INVALID_SETTING."""
    if table is None:
        return None
    if not isinstance(table, dict):
        raise _invalid(path, "cluster must be a table, written [cluster]")
    unknown = table.keys() - _KEYS
    if unknown:
        raise _invalid(path, f"unknown key cluster.{min(unknown)}; known are {', '.join(sorted(_KEYS))}")
    node, members = table.get("node", socket.gethostname()), table.get("members", {})
    port, addresses, hook = table.get("port", DEFAULT_PORT), table.get("addresses", []), table.get("hook", [])
    if not isinstance(node, str):
        raise _invalid(path, "cluster.node must be text")
    if not isinstance(members, dict):
        raise _invalid(path, "cluster.members must be a table of names and addresses")
    if isinstance(port, bool) or not isinstance(port, int):
        raise _invalid(path, f"cluster.port must be a number, not {port!r}")
    if not isinstance(addresses, list):
        raise _invalid(path, "cluster.addresses must be a list of addresses")
    if not isinstance(hook, list) or not all(isinstance(word, str) for word in hook):
        raise _invalid(path, "cluster.hook must be a list: a command and its arguments")
    if hook and not Path(hook[0]).is_absolute():
        raise _invalid(path, f"cluster.hook must begin with an absolute path, not {hook[0]!r}")
    try:
        return ClusterSettings(
            node,
            tuple(ip_address(str(one)) for one in addresses),
            {name: ip_address(str(one)) for name, one in members.items()},
            _secret(path, table) if len(members) > 1 else Secret(b""),
            port,
            tuple(hook),
        )
    except ValueError as error:
        raise _invalid(path, f"cluster: {error}") from None


def _secret(path: Path, table: Mapping[str, object]) -> Secret:
    name = table.get("secret_file", "")
    if not isinstance(name, str) or not Path(name).is_absolute():
        raise _invalid(path, "cluster.secret_file must be an absolute path: several members need a secret")
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o077:
                raise _invalid(path, f"cluster.secret_file {name} must be for its owner only (chmod 600)")
            return Secret(file.read(MAXIMUM_SECRET).strip())
    except OSError as error:
        raise _invalid(path, f"cluster.secret_file {name}: {error.strerror}") from error


def _invalid(path: Path, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_SETTING, detail, file=path)

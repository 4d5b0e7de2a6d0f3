"""The secret behind proofs of lost state (`stockade.ike.proofs`), kept beside the agent's state, and the
number of this start.

A node of a cluster makes its tokens with a key that all nodes derive from the cluster's secret, so that each
can prove for the others; the number of the start is its own.

A file that is damaged or cannot be written costs the quick reconnect and nothing else: a new secret is made,
or none, and peers find out by their timers."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.crypto.hashing import prf
from stockade.ike.proofs import MAXIMUM_NODES, MINIMUM_SECRET, RestartSecret
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash

if TYPE_CHECKING:
    from stockade.cluster.settings import ClusterSettings

_CLUSTER = b"Stockade tokens of lost state in a cluster 1\0"


def next_restart_secret(path: Path, cluster: "ClusterSettings | None" = None) -> RestartSecret:
    """Read the secret (a new one where there is none, or none that can be read), and count this start.
    `HostError` STATE_UNUSABLE where it cannot be kept."""
    key, generation = os.urandom(MINIMUM_SECRET), 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        found, number = bytes.fromhex(content["secret"]), int(content["generation"])
        if len(found) >= MINIMUM_SECRET and number >= 0:
            key, generation = found, number + 1
    new = path.with_suffix(".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            json.dump({"secret": key.hex(), "generation": generation}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise error_for(ReasonCode.STATE_UNUSABLE, f"{path}: {error.strerror}") from error
    if cluster is None or not cluster.others:
        return RestartSecret(Secret(key), generation)
    shared = Secret(prf(Hash.SHA_256, cluster.secret, _CLUSTER))
    return RestartSecret(shared, generation, cluster.node, _neighbours(cluster))


def _neighbours(cluster: "ClusterSettings") -> tuple[str, ...]:
    """For whom this node proves: the next ones in the order of the names, as many as one message takes."""
    names = sorted(cluster.members)
    at = names.index(cluster.node)
    return tuple((names[at + 1 :] + names[:at])[: MAXIMUM_NODES - 1])

"""The program that reads the directory for an agent: a request on standard input, a snapshot on standard
output.

A process of its own, for a controller may hang half-way through an answer or send more than there is memory
for: it is ended, and the agent, whose peers wait for it, has not even noticed. LDAP's and Kerberos'
libraries are loaded here only.

    request   JSON (`Request`)
    answer    "snapshot\n" and the snapshot, "groups\n" and rows of names as JSON, or "refused\n" and JSON:
              reason, detail, facts"""

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from stockade.agent import keytab as keytabs
from stockade.agent.domain import MAXIMUM_ANSWER, refusal_in
from stockade.agent.domain_settings import LIFETIME, DomainSettings, Request
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for, error_of
from stockade.store.directory.group_names import groups_of, names_of
from stockade.store.directory.ldap import Connection, Login
from stockade.store.directory.locator import locate
from stockade.store.directory.reading import read_snapshot
from stockade.store.directory.snapshot import Snapshot, decode_snapshot, encode_snapshot

ANSWER_SECONDS = 15.0
CONTROLLER_SECONDS = 25.0  # for one controller, all its answers together
MEMORY = 1 << 30


def fetch(request: Request) -> Snapshot:
    """From the first controller that gives it. HostError of the last one that did not."""
    login = login_of(request)
    account = login.principal.partition("@")[0]
    if not account and not request.computer and not request.unit:
        raise error_for(ReasonCode.DIRECTORY_REFUSED, "without a keytab say which computer or unit is meant")

    def read(connection: Connection) -> bytes:
        return encode_snapshot(
            read_snapshot(
                connection,
                account=account,
                computer=request.computer,
                unit=request.unit,
                addresses=map(ip_address, request.addresses),
                known=request.known,
            )
        )

    snapshot = decode_snapshot(_from_any(request, login, read))
    if snapshot.domain.casefold() != request.domain.casefold():
        detail = f"{snapshot.controller} is a controller of {snapshot.domain}, not of {request.domain}"
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, detail)
    return snapshot


def fetch_groups(request: Request) -> bytes:
    """Of the peer, or the names of SIDs; rows as JSON."""

    def read(connection: Connection) -> bytes:
        asked = groups_of(connection, request.peer) if request.peer else names_of(connection, request.sids)
        return json.dumps(asked).encode()

    return _from_any(request, login_of(request), read)


def _from_any(request: Request, login: Login, read: Callable[[Connection], bytes]) -> bytes:
    failure: StockadeError | None = None
    for controller in request.controllers or locate(request.domain, request.site):
        try:
            return _apart(controller, login, read)
        except StockadeError as error:
            failure = error
    assert failure is not None
    raise failure


def _apart(controller: str, login: Login, read: Callable[[Connection], bytes]) -> bytes:
    """`read`, in a process of its own: where a controller stops in the middle of an answer the library may
    wait for ever, or fall; then the next one is asked all the same."""
    door, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(door)
            signal.alarm(int(CONTROLLER_SECONDS) + 5)
            with os.fdopen(answer, "wb") as out:
                out.write(_tried(controller, login, read))
        finally:
            os._exit(0)
    os.close(answer)
    try:
        kind, _, rest = _until_closed(door, time.monotonic() + CONTROLLER_SECONDS).partition(b"\n")
    finally:
        os.close(door)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    refused = refusal_in(kind, rest)
    if refused is not None:
        raise refused
    if kind != b"answer":
        raise error_for(
            ReasonCode.DIRECTORY_UNREACHABLE,
            "the controller does not finish its answer",
            controller=controller,
        )
    return rest


def _tried(controller: str, login: Login, read: Callable[[Connection], bytes]) -> bytes:
    try:
        with Connection(controller, login, ANSWER_SECONDS) as connection:
            return b"answer\n" + read(connection)
    except StockadeError as error:
        return b"refused\n" + refusal_form(error.reason)


def _until_closed(door: int, deadline: float) -> bytes:
    """All that comes; nothing where it does not end in time, or is more than anybody asked for."""
    parts: list[bytes] = []
    size = 0
    while select.select([door], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(door, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAXIMUM_ANSWER:
            break
    return b""


def login_of(request: Request) -> Login:
    """As the computer account of the keytab, or with the present tickets. HostError KERBEROS_UNAVAILABLE."""
    settings = DomainSettings(
        request.domain,
        security=request.security,
        authority=request.authority,
        user=request.user,
        password_file=request.password_file,
    )
    keytab = request.keytab
    if not keytab:
        return settings.login(keytab=None)
    principals = keytabs.read_principals(Path(keytab))
    if isinstance(principals, Reason):
        raise error_of(principals)
    name = keytabs.client_principal(principals)
    if name is None:
        raise error_for(ReasonCode.KERBEROS_UNAVAILABLE, f"the keytab {keytab} has no key of a computer")
    return settings.login(Path(keytab), name)


def main() -> None:
    signal.alarm(LIFETIME)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    request = Request.decode(sys.stdin.buffer.read())
    out = sys.stdout.buffer
    try:
        if request.peer or request.sids:
            answer = b"groups\n" + fetch_groups(request)
        else:
            answer = b"snapshot\n" + encode_snapshot(fetch(request))
    except StockadeError as error:
        out.write(b"refused\n" + refusal_form(error.reason))
        return
    out.write(answer)


def refusal_form(reason: Reason) -> bytes:
    form = {"reason": reason.code.name, "detail": reason.detail, "facts": list(reason.facts)}
    return json.dumps(form, ensure_ascii=False).encode()


if __name__ == "__main__":
    main()

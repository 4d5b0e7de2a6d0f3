"""The program that reads the directory for an agent: a request on standard input, a snapshot on standard
output.

A process of its own, for a controller may hang half-way through an answer or send more than there is memory
for: it is ended, and the agent, whose peers wait for it, has not even noticed. LDAP's and Kerberos'
libraries are loaded here only.

    request   JSON: domain, site, controllers, keytab, computer, unit, addresses
    answer    "snapshot\n" and the snapshot, or "refused\n" and JSON: reason, detail, facts"""

import json
import resource
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

from stockade.agent import keytab as keytabs
from stockade.agent.domain_settings import LIFETIME, DomainSettings, Request
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for, error_of
from stockade.store.directory.ldap import Connection, Login
from stockade.store.directory.locator import locate
from stockade.store.directory.reading import read_snapshot
from stockade.store.directory.snapshot import Snapshot, encode_snapshot

ANSWER_SECONDS = 15.0
MEMORY = 1 << 30


def fetch(request: Request) -> Snapshot:
    """From the first controller that gives it. HostError of the last one that did not."""
    login = login_of(request)
    account = login.principal.partition("@")[0]
    if not account and not request.computer and not request.unit:
        raise error_for(ReasonCode.DIRECTORY_REFUSED, "without a keytab say which computer or unit is meant")
    failure: StockadeError | None = None
    for controller in request.controllers or locate(request.domain, request.site):
        try:
            with Connection(controller, login, ANSWER_SECONDS) as connection:
                snapshot = read_snapshot(
                    connection,
                    account=account,
                    computer=request.computer,
                    unit=request.unit,
                    addresses=map(ip_address, request.addresses),
                )
        except StockadeError as error:
            failure = error
            continue
        if snapshot.domain.casefold() != request.domain.casefold():
            detail = f"{controller} is a controller of {snapshot.domain}, not of {request.domain}"
            raise error_for(ReasonCode.DIRECTORY_UNREADABLE, detail)
        return snapshot
    assert failure is not None
    raise failure


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
        answer = encode_snapshot(fetch(request))
    except StockadeError as error:
        out.write(b"refused\n" + refusal_form(error.reason))
        return
    out.write(b"snapshot\n" + answer)


def refusal_form(reason: Reason) -> bytes:
    form = {"reason": reason.code.name, "detail": reason.detail, "facts": list(reason.facts)}
    return json.dumps(form, ensure_ascii=False).encode()


if __name__ == "__main__":
    main()

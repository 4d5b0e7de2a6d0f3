"""A domain's directory for people at the command line: with the tickets of who runs the command (`kinit`), or
as `[directory]` of the settings says."""

import sys
from dataclasses import replace

from stockade.agent.domain_settings import DomainSettings
from stockade.agent.paths import Paths
from stockade.agent.settings import read_settings
from stockade.console.sysvol import write_version
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.objects import check_name
from stockade.store.directory.domain_store import DomainStore
from stockade.store.directory.ldap import Connection, Security
from stockade.store.directory.locator import locate

ANSWER_SECONDS = 20.0


def open_domain_store(paths: Paths, domain: str) -> DomainStore:
    """The store of this domain; of the settings' where it has no name. Nothing is connected yet. CallerError
    NOT_SET_UP."""
    settings = read_settings(paths.settings).directory
    name = domain or settings.domain
    if not name:
        raise error_for(
            ReasonCode.NOT_SET_UP,
            "no domain is set: domain under [directory], or domain= of the command",
            file=paths.settings,
        )
    try:
        check_name(name)
    except ValueError as error:
        raise error_for(ReasonCode.INVALID_SETTING, f"{error}", domain=name[:80]) from None
    if name.casefold() != settings.domain.casefold():
        settings = replace(settings, domain=name, controllers=())
    used: list[str] = []

    def connect() -> Connection:
        connection = connect_as_person(settings)
        used.append(connection.controller)
        return connection

    def publish(gpo: str, version: int) -> None:
        trouble = write_version(used[-1], name, gpo, version)
        if trouble is not None:
            print(f"stockade: {trouble}", file=sys.stderr)

    return DomainStore(connect, _tell, publish)


def connect_as_person(settings: DomainSettings) -> Connection:
    """To the first controller that takes us. The errors of the last one that did not."""
    login = settings.login(keytab=None)
    failure: StockadeError | None = None
    for controller in settings.controllers or locate(settings.domain):
        try:
            return Connection(controller, login, ANSWER_SECONDS)
        except StockadeError as error:
            failure = error
    assert failure is not None
    if failure.reason.code is ReasonCode.DIRECTORY_REFUSED and login.security is Security.GSSAPI:
        reason = failure.reason
        raise error_for(
            reason.code,
            reason.detail,
            **dict(reason.facts),
            expected="tickets of an account of the domain (kinit)",
        )
    raise failure


def _tell(problem: Reason) -> None:
    print(f"stockade: {problem}", file=sys.stderr)

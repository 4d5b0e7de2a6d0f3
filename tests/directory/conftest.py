"""One domain for the tests of this tier: a real controller, and computers that are members of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from command_line import run_stockade
from domain_controller import (
    PASSWORD,
    SYSTEM_PATH,
    DomainController,
    join_network,
    leave_network,
    missing,
)

from stockade.lab.netns import Namespace, Network

CONTROLLER, ALPHA, BETA = "10.79.0.1", "10.79.0.2", "10.79.0.3"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test makes the domain as well, which takes minutes on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@dataclass
class Domain:
    """The controller and its members. `keytabs`: by the name of the member."""

    controller: DomainController
    network: Network
    folder: Path

    def __getitem__(self, name: str) -> Namespace:
        return self.network[name]

    def keytab(self, name: str) -> Path:
        return self.folder / f"{name}.keytab"

    @property
    def servers(self) -> str:
        """The DN of the OU that alpha and beta are in."""
        return f"OU=Servers,{self.controller.domain_dn}"

    @property
    def container(self) -> str:
        return f"CN=IP Security,CN=System,{self.controller.domain_dn}"

    @property
    def tickets(self) -> Path:
        """The administrator's, got when they are first asked for."""
        path = self.folder / "administrator.tickets"
        if not path.exists():
            argv = ["kinit", "-c", str(path), "administrator@LAB.TEST"]
            result = subprocess.run(
                self["alpha"].argv(argv), input=f"{PASSWORD}\n", capture_output=True, text=True,
                timeout=300, check=False, env=self.environment(tickets=False),
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
        return path

    def environment(self, *, tickets: bool, keytab: Path | None = None) -> dict[str, str]:
        """With the administrator's tickets, with a keytab to get others from, or with none."""
        named = {name: value for name, value in os.environ.items() if not name.startswith("KRB5CC")}
        named |= {
            "KRB5_CONFIG": str(self.controller.krb5_conf),
            "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
            "KRB5CCNAME": str(self.folder / "none.tickets"),
        }
        if keytab is not None:
            return {**named, "KRB5_CLIENT_KTNAME": str(keytab), "KRB5CCNAME": "MEMORY:own"}
        return {**named, "KRB5CCNAME": str(self.tickets)} if tickets else named

    def administer(
        self,
        script: str,
        *,
        good: bool = True,
        settings: str = "",
        tickets: bool = True,
        keytab: Path | None = None,
    ) -> str:
        """Run a script of the command language on alpha as an administrator of the domain. What it prints."""
        file = self.folder / "script.netsh"
        file.write_text(script)
        return self.stockade(
            "alpha", "netsh", "-f", str(file), good=good, settings=settings, tickets=tickets, keytab=keytab
        )

    def stockade(
        self,
        member: str,
        *words: str,
        good: bool = True,
        settings: str = "",
        tickets: bool = True,
        keytab: Path | None = None,
    ) -> str:
        """The program on a member, with a home of its own. What it prints; errors too where it fails."""
        home = self.folder / f"home-{member}"
        home.mkdir(exist_ok=True)
        (home / "agent.toml").write_text(settings)
        environment = self.environment(tickets=tickets, keytab=keytab)
        result = run_stockade(self[member], home, *words, timeout=400, environment=environment)
        assert (result.returncode == 0) is good, (words, result.stdout, result.stderr)
        return result.stdout if good else result.stdout + result.stderr

    def python(self, member: str, program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """A program of Python on a member, with the administrator's tickets."""
        return self[member].run(
            [sys.executable, "-c", program, *words], check=False, timeout=400,
            environment=self.environment(tickets=True),
        )  # fmt: skip

    def other_authority(self, path: Path) -> None:
        """The certificate of an authority that the controller has nothing of."""
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-days", "30",
             "-keyout", str(path.with_suffix(".key")), "-out", str(path)],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="session")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Domain]:
    why = missing()
    if why is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("domain")
    hosts = {"dc": CONTROLLER, "alpha": ALPHA, "beta": BETA}
    interfaces = {name: IPv4Interface(f"{address}/24") for name, address in hosts.items()}
    with (
        pytest.MonkeyPatch.context() as environment,
        Network(interfaces) as network,
        DomainController(network["dc"], folder / "dc1", CONTROLLER) as controller,
    ):
        environment.setenv("KRB5_CONFIG", str(controller.krb5_conf))
        environment.setenv("KRB5RCACHENAME", f"dfl:{folder}")
        environment.delenv("KRB5CCNAME", raising=False)
        made = Domain(controller, network, folder)
        controller.let_members_read()
        controller.add_unit(made.servers)
        try:
            for name in ("alpha", "beta"):
                join_network(network[name], CONTROLLER)
                controller.add_computer(name, made.keytab(name), "OU=Servers")
            yield made
        finally:
            for name in ("alpha", "beta"):
                leave_network(network[name])

"""One domain for the tests of this tier: a real controller, and computers that are members of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from domain_controller import DomainController, join_network, leave_network, missing

from stockade.lab.netns import Namespace, Network

CONTROLLER, ALPHA, BETA = "10.79.0.1", "10.79.0.2", "10.79.0.3"


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

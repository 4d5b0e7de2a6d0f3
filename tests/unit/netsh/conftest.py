"""A session over real local stores, in a world whose files, agent and names are this test's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.contract import JsonValue, World
from stockade.netsh.registry_settings import RegistryNumber
from stockade.netsh.session import Session
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import DynamicMemory
from stockade.store.formats import file_kind, read_policy_file, registry_numbers, write_reg_file
from stockade.store.local import LocalStore


class Dynamic:
    """The agent's dynamic store, without an agent."""

    def __init__(self) -> None:
        self.memory = DynamicMemory()
        self._before = DynamicSet()

    def read(self) -> DynamicSet:
        return self.memory.read()

    @contextmanager
    def transaction(self) -> Iterator["Dynamic"]:
        self._wanted: DynamicSet | None = None
        yield self
        if self._wanted is not None:
            self.memory.replace(self._wanted)

    def replace(self, objects: DynamicSet) -> None:
        self._wanted = objects


class Agent:
    """What an agent with one pair of SAs says."""

    deleted: Address | None = None

    def status(self) -> Mapping[str, JsonValue]:
        return {
            "main_modes": 1,
            "quick_modes": 1,
            "held_packets": 2,
            "ike": {"invalid_cookies": 3},
            "refused_packets": {"replayed": 4},
        }

    def filters(self) -> Mapping[str, JsonValue]:
        def row(direction: str, source: str, destination: str, action: str, protocol: str) -> JsonValue:
            return {
                "direction": direction,
                "source": source,
                "source_port": 0,
                "destination": destination,
                "destination_port": 23 if protocol == "tcp" else 0,
                "protocol": protocol,
                "action": action,
                "weight": 7,
                "negotiation": "local/P/R" if action == "negotiate" else None,
                "provenance": "local store, policy “P”, rule “R”",
            }

        return {
            "policy": "P",
            "filters": [
                row("outbound", "192.0.2.1", "10.0.0.0/8", "negotiate", "any"),
                row("inbound", "10.0.0.0/8", "192.0.2.1", "permit", "any"),
                row("inbound", "any", "192.0.2.1", "block", "tcp"),
            ],
        }

    def sas(self) -> Mapping[str, JsonValue]:
        return {
            "main_modes": [
                {
                    "cookies": "0123456789abcdef:fedcba9876543210",
                    "local": "192.0.2.1:500",
                    "peer": "10.0.0.2:500",
                    "suite": "3DES-SHA1-2",
                    "authentication": "preshared-key",
                    "local_identity": "192.0.2.1",
                    "peer_identity": "10.0.0.2",
                    "remaining": 100.0,
                }
            ],
            "quick_modes": [
                {
                    "local": "192.0.2.1",
                    "peer": "10.0.0.2",
                    "traffic": "tcp 192.0.2.1 to 10.0.0.2",
                    "suite": "ESP[3DES,SHA1]",
                    "pfs_group": "",
                    "rule": "R",
                    "inbound_spi": "0x00000001",
                    "outbound_spi": "0x00000002",
                    "inbound_bytes": 10,
                    "outbound_bytes": 20,
                    "inbound_packets": 1,
                    "outbound_packets": 2,
                    "remaining": 50.0,
                }
            ],
        }

    def delete_peer(self, peer: Address) -> Mapping[str, JsonValue]:
        self.deleted = peer
        return {"peer": str(peer), "main_modes": 1, "quick_modes": 2}


class MemoryFiles:
    """Files in a dictionary."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        try:
            return self.content[name]
        except KeyError:
            raise error_for(ReasonCode.INVALID_FILE, f"{name} cannot be read") from None

    def write(self, name: str, content: bytes) -> None:
        self.content[name] = content

    def windows_policies(self, content, name, store):
        return None if file_kind(content) is None else read_policy_file(content, name, store=store)

    def registry_numbers(self, content, name):
        found = registry_numbers(content, name)
        return None if found is None else [RegistryNumber(*entry) for entry in found]

    def registry_form(self, objects, *, with_secrets, allow_losses):
        return write_reg_file(objects, with_secrets=with_secrets, allow_losses=allow_losses)


class Resolver:
    def addresses(self, name: str) -> tuple[Address, ...]:
        return (ip_address("192.0.2.9"),) if name == "gw.example.com" else ()

    def name(self, address: Address) -> str | None:
        return {"10.0.0.2": "two.example.com"}.get(str(address))


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture
def dynamic() -> Dynamic:
    return Dynamic()


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def session(tmp_path: Path, files: MemoryFiles, dynamic: Dynamic, agent: Agent) -> Session:
    stores = {
        "local": LocalStore(tmp_path / "policy.db"),
        "persistent": LocalStore(tmp_path / "persistent.db", "persistent"),
    }
    world = World(
        open_store=stores.__getitem__,
        settings=stores["local"],
        dynamic=dynamic,
        agent=agent,
        files=files,
        resolver=Resolver(),
        host_name="filer.example.com",
    )
    return Session(stores["local"], ("ipsec", "static"), world=world)

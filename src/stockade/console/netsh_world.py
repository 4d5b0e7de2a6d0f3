"""What the command language needs of the world (`stockade.netsh.contract.World`), as the console gives it:
stores in their files, the running agent through its local API, files, names, and the person at the
terminal."""

import os
import socket
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.netsh.contract import ImportedPolicies, JsonValue, World
from stockade.netsh.registry_settings import RegistryNumber
from stockade.netsh.session import Session
from stockade.policy.dynamic import DynamicSet
from stockade.policy.objects import PolicySet
from stockade.store.dynamic import dynamic_form, dynamic_of
from stockade.store.local import LocalStore
from stockade.store.opening import Opened, ReadOnlyStore, last_saved_path, open_store

if TYPE_CHECKING:
    from stockade.store.directory.domain_store import DomainStore

MAXIMUM_FILE = 64 * 1024 * 1024


class Console:
    """One run of the command language on this computer."""

    def __init__(self, paths: Paths, *, ask: bool = False) -> None:
        paths.make_folders()
        self._paths = paths
        self._opened: dict[str, Opened] = {}
        self._domains: dict[str, DomainStore] = {}
        client = AgentClient(paths.socket)
        local = self.store("local")
        self.world = World(
            open_store=self.store,
            open_domain=self.domain,
            settings=local,
            dynamic=AgentDynamic(client),
            agent=AgentApi(client),
            files=SystemFiles(),
            resolver=SystemResolver(),
            confirm=confirm if ask else None,
            host_name=socket.gethostname(),
        )
        self.session = Session(local, world=self.world)
        self._versions = self._present_versions()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stores: what is written is in their files when the command ends, and not when the
        memory of the process is cleared up."""
        for opened in self._opened.values():
            opened.store.close()

    def store(self, name: str) -> LocalStore | ReadOnlyStore:
        """The store called `local` or `persistent`; where it is damaged, its last good copy, and standard
        error says so. HostError where there is no copy."""
        opened = self._opened.get(name)
        if opened is None:
            path = self._paths.policy if name == "local" else self._paths.persistent
            opened = self._opened[name] = open_store(path, name)
            if opened.damage is not None:
                print(f"stockade: {opened.damage}\n{opened.what_is_shown}", file=sys.stderr)
        return opened.store

    def domain(self, name: str) -> "DomainStore":
        """The policies of a domain, as a store (LDAP's and Kerberos' libraries are loaded here only)."""
        from stockade.console.domain_access import open_domain_store

        found = self._domains.get(name.casefold())
        if found is None:
            found = self._domains[name.casefold()] = open_domain_store(self._paths, name)
        return found

    def _present_versions(self) -> dict[str, int]:
        return {
            name: opened.store.version() for name, opened in self._opened.items() if opened.damage is None
        }

    def tell_agent(self) -> bool:
        """Have a running agent take over what was changed since the last call. False, with the reason on
        standard error, if it refuses."""
        before, self._versions = self._versions, self._present_versions()
        changed = any(before.get(name) != version for name, version in self._versions.items())
        for name, version in self._versions.items():
            store = self._opened[name].store
            if before.get(name) != version and isinstance(store, LocalStore):
                _keep_copy(store)
        if not changed or not self._paths.socket.exists():
            return True
        try:
            answer = AgentClient(self._paths.socket).post("/v1/policy/reload")
        except StockadeError as error:
            if error.reason.code is ReasonCode.AGENT_NOT_RUNNING:
                return True  # a socket that a killed agent left: nothing to tell
            raise
        refused = answer["refused"]
        if refused:
            print(f"stored, but the last good policy stays in force: {refused['text']}", file=sys.stderr)
            print(f"what to do: {refused['remedy']}", file=sys.stderr)
        return not refused


def _keep_copy(store: LocalStore) -> None:
    """What was written, for the day on which the store is damaged. That it could not be kept (a full disk) is
    told, and fails nothing: the change itself is in the store."""
    try:
        store.copy_to(last_saved_path(store.path))
    except (OSError, sqlite3.Error, StockadeError) as error:
        print(f"stockade: no copy of {store.path.name} could be kept: {error}", file=sys.stderr)


class AgentDynamic:
    """The dynamic store of the running agent (`DynamicStore` of the command language)."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    def read(self) -> DynamicSet:
        return self._read()[0]

    @contextmanager
    def transaction(self) -> Iterator["_DynamicChange"]:
        objects, version = self._read()
        change = _DynamicChange(objects)
        yield change
        if change.changed:
            form = dynamic_form(change.read(), with_keys=True)
            self._client.put("/v1/dynamic", {"version": version, "objects": form})

    def _read(self) -> tuple[DynamicSet, int]:
        answer = self._client.get("/v1/dynamic", {"keys": "yes"})
        try:
            return dynamic_of(answer["objects"]), int(answer["version"])
        except (ValueError, KeyError) as error:
            raise error_for(
                ReasonCode.INTERNAL, f"the agent's dynamic objects cannot be read ({type(error).__name__})"
            ) from None


class _DynamicChange:
    def __init__(self, objects: DynamicSet) -> None:
        self._objects = objects
        self.changed = False

    def read(self) -> DynamicSet:
        return self._objects

    def replace(self, objects: DynamicSet) -> None:
        self._objects, self.changed = objects, True


class AgentApi:
    """What is in force (`AgentView` of the command language)."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    def status(self) -> Mapping[str, JsonValue]:
        return self._client.get("/v1/status")

    def filters(self) -> Mapping[str, JsonValue]:
        return self._client.get("/v1/filters")

    def sas(self) -> Mapping[str, JsonValue]:
        return self._client.get("/v1/sas")

    def delete_peer(self, peer: Address) -> Mapping[str, JsonValue]:
        return self._client.post("/v1/sas/delete", {"peer": str(peer)})


class SystemFiles:
    """Files by their names, relative to the present folder."""

    def read(self, name: str) -> bytes:
        try:
            with Path(name).open("rb") as file:
                content = file.read(MAXIMUM_FILE + 1)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise error_for(ReasonCode.FILE_UNUSABLE, f"{name} cannot be read: {what}") from None
        if len(content) > MAXIMUM_FILE:
            raise error_for(ReasonCode.INVALID_FILE, f"{name} is longer than {MAXIMUM_FILE} octets")
        return content

    def write(self, name: str, content: bytes) -> None:
        """In one step, mode 0600: the file is whole or not there, and nobody else reads a key in it."""
        path = Path(name)
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                beside.replace(path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise error_for(ReasonCode.FILE_UNUSABLE, f"{name} cannot be written: {what}") from None

    def windows_policies(self, content: bytes, name: str, store: str) -> ImportedPolicies | None:
        # The readers of foreign files are needed for an import only.
        from stockade.store.formats import file_kind, read_policy_file

        if file_kind(content) is None:
            return None
        return read_policy_file(content, name, store=store)

    def registry_numbers(self, content: bytes, name: str) -> list[RegistryNumber] | None:
        from stockade.store.formats import registry_numbers

        found = registry_numbers(content, name)
        return None if found is None else [RegistryNumber(*entry) for entry in found]

    def registry_form(
        self, objects: PolicySet, *, with_secrets: bool, allow_losses: bool
    ) -> tuple[bytes, tuple[Reason, ...]]:
        from stockade.store.formats import write_reg_file

        return write_reg_file(objects, with_secrets=with_secrets, allow_losses=allow_losses)


class SystemResolver:
    """Names as the system resolves them."""

    def addresses(self, name: str) -> tuple[Address, ...]:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return ()
        texts = (entry[4][0] for entry in found)
        return tuple(dict.fromkeys(ip_address(str(text).partition("%")[0]) for text in texts))

    def name(self, address: Address) -> str | None:
        try:
            return socket.gethostbyaddr(str(address))[0]
        except OSError:
            return None


def confirm(question: str) -> bool:
    """Ask the person at the terminal; anything but yes is no."""
    try:
        return input(f"{question} (yes/no) ").strip().casefold() in ("y", "yes")
    except EOFError:
        return False

"""The seams between the command language and the world. This room is pure: what its commands need besides a
policy store (files, the running agent, names, a person to ask) comes in through these protocols. The console
gives the implementations; a test gives its own; without one the commands that need it say so."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from stockade.model.addresses import Address
from stockade.model.reasons import Reason
from stockade.netsh.registry_settings import RegistryNumber
from stockade.policy.contract import PolicyStore, PolicyTransaction
from stockade.policy.dynamic import DynamicSet
from stockade.policy.objects import PolicySet

# A value of JSON, as it goes to `json.dumps`.
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


@runtime_checkable
class WholeTransaction(PolicyTransaction, Protocol):
    """A transaction that can also put everything at once (`--atomic`, batch mode, import)."""

    def replace_all(self, objects: PolicySet) -> None:
        """Make the store hold exactly these objects."""


@runtime_checkable
class DescribedStore(PolicyStore, Protocol):
    """A store that keeps a history of its changes."""

    def describe(self, command: str) -> None:
        """What made the changes from now on, without keys."""


class GpoAssignment(Protocol):
    """A group policy object that assigns a policy."""

    @property
    def gpo(self) -> str: ...

    @property
    def policy(self) -> str: ...

    @property
    def policy_dn(self) -> str: ...


@runtime_checkable
class AssigningStore(PolicyStore, Protocol):
    """A directory: its policies are put in force by group policy objects. Each change is made at once."""

    @property
    def domain(self) -> str: ...

    def assign(self, policy: str, gpo: str) -> None:
        """CallerError UNKNOWN_NAME."""

    def unassign(self, policy: str, gpo: str) -> None: ...

    def assignments(self) -> Sequence[GpoAssignment]: ...


class Settings(Protocol):
    """What `set config` keeps, as text under a name."""

    def get_setting(self, key: str) -> str | None: ...

    def put_setting(self, key: str, value: str | None) -> None: ...


class DynamicTransaction(Protocol):
    """What is in memory of the agent, to be changed as a whole."""

    def read(self) -> DynamicSet: ...

    def replace(self, objects: DynamicSet) -> None: ...


class DynamicStore(Protocol):
    """The dynamic objects of the running agent. Errors: HostError AGENT_NOT_RUNNING, STORE_BUSY (another one
    changed them meanwhile), CallerError where the agent refuses what it would have to enforce."""

    def read(self) -> DynamicSet: ...

    def transaction(self) -> AbstractContextManager[DynamicTransaction]: ...


class AgentView(Protocol):
    """What is in force now, as the agent's local API tells it."""

    def status(self) -> Mapping[str, JsonValue]: ...

    def filters(self) -> Mapping[str, JsonValue]: ...

    def sas(self) -> Mapping[str, JsonValue]: ...

    def delete_peer(self, peer: Address) -> Mapping[str, JsonValue]: ...


class ImportedPolicies(Protocol):
    """What a file of Windows holds (`stockade.store.formats.ImportResult`)."""

    @property
    def policy_set(self) -> PolicySet: ...

    @property
    def problems(self) -> tuple[Reason, ...]: ...

    @property
    def complete(self) -> bool: ...


class Files(Protocol):
    """Files by the names that commands give. CallerError FILE_UNUSABLE; INVALID_FILE for a long one."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None:
        """For its owner only: it may hold keys."""

    def windows_policies(self, content: bytes, name: str, store: str) -> ImportedPolicies | None:
        """The policies of an `.ipsec`, `.reg` or LDIF file; None where it is none of these."""

    def registry_numbers(self, content: bytes, name: str) -> Sequence[RegistryNumber] | None:
        """All values of a `.reg` file; None where it is none."""

    def registry_form(
        self, objects: PolicySet, *, with_secrets: bool, allow_losses: bool
    ) -> tuple[bytes, tuple[Reason, ...]]:
        """A `.reg` file with the policies, and what does not come over."""


class Resolver(Protocol):
    """Names and addresses, as the system resolves them now."""

    def addresses(self, name: str) -> tuple[Address, ...]: ...

    def name(self, address: Address) -> str | None: ...


@dataclass(frozen=True, slots=True)
class World:
    """All of it, for one session. `open_store` takes `local` or `persistent`; `open_domain` the name of a
    domain, empty for this computer's; `confirm` puts a question that takes yes or no to a person."""

    open_store: Callable[[str], PolicyStore] | None = None
    open_domain: Callable[[str], PolicyStore] | None = None
    settings: Settings | None = None
    dynamic: DynamicStore | None = None
    agent: AgentView | None = None
    files: Files | None = None
    resolver: Resolver | None = None
    confirm: Callable[[str], bool] | None = None
    host_name: str = ""

    def is_this_computer(self, name: str) -> bool:
        """Whether `name`, with or without `\\\\` before it, means the computer that this runs on."""
        wanted = name.removeprefix("\\\\").rstrip(".").casefold() or "."
        own = self.host_name.casefold()
        return wanted in {".", "localhost", "127.0.0.1", "::1", *({own, own.partition(".")[0]} - {""})}

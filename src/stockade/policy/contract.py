"""The seam between the command language and a store: `netsh/` works on any `PolicyStore`, `store/` provides
them."""

from contextlib import AbstractContextManager
from typing import Protocol

from stockade.policy.objects import FilterAction, FilterList, Policy, PolicySet


class PolicyTransaction(Protocol):
    """A consistent view that can be changed; nothing is kept unless the surrounding `with` block ends well.

    `put_*` adds, or replaces the object with the same GUID. Renaming a filter list or filter action renames
    it in the rules that use it. Assigning a policy unassigns the others. Errors: `CallerError` NAME_EXISTS
    (another object of the kind has that name), UNKNOWN_NAME, IN_USE (naming the rule).
    """

    def read(self) -> PolicySet: ...

    def put_policy(self, policy: Policy) -> None: ...

    def put_filter_list(self, filter_list: FilterList) -> None: ...

    def put_filter_action(self, filter_action: FilterAction) -> None: ...

    def delete_policy(self, name: str) -> None: ...

    def delete_filter_list(self, name: str) -> None: ...

    def delete_filter_action(self, name: str) -> None: ...


class PolicyStore(Protocol):
    """Where policies live. Every method may raise `HostError` STORE_UNREADABLE or STORE_BUSY."""

    @property
    def name(self) -> str:
        """`local`, `persistent`, `domain` …"""

    def read(self) -> PolicySet:
        """All objects, in one consistent view."""

    def transaction(self) -> AbstractContextManager[PolicyTransaction]:
        """Change the store: all of the block or, after an exception, nothing."""

    def version(self) -> int:
        """A number that differs after any committed change, by any process."""

"""Named settings of one store, such as those of `netsh ipsec dynamic set config` (ipsecexempt …).

A key is a lower-case word of the caller's choice; a value is text, with typed accessors over it. A value that
does not read as its type is STORE_UNREADABLE with the key's name: a damaged setting never turns into a
default."""

from typing import Protocol

from stockade.model.reasons import ReasonCode, error_for


class SettingsTable(Protocol):
    """What `Settings` needs of its store."""

    def get_setting(self, key: str) -> str | None: ...

    def put_setting(self, key: str, value: str | None) -> None: ...


class Settings:
    """Key and value pairs; each change is one transaction and changes the store's version."""

    __slots__ = ("_table",)

    def __init__(self, table: SettingsTable) -> None:
        self._table = table

    def text(self, key: str, default: str) -> str:
        value = self._table.get_setting(key)
        return default if value is None else value

    def number(self, key: str, default: int) -> int:
        value = self._table.get_setting(key)
        if value is None:
            return default
        try:
            return int(value)
        except ValueError:
            raise self._unreadable(key, "a number") from None

    def flag(self, key: str, default: bool) -> bool:
        value = self._table.get_setting(key)
        if value is None:
            return default
        if value not in ("yes", "no"):
            raise self._unreadable(key, "yes or no")
        return value == "yes"

    def set_text(self, key: str, value: str) -> None:
        self._table.put_setting(key, value)

    def set_number(self, key: str, value: int) -> None:
        self._table.put_setting(key, str(value))

    def set_flag(self, key: str, value: bool) -> None:
        self._table.put_setting(key, "yes" if value else "no")

    def remove(self, key: str) -> None:
        """Back to the default; nothing happens where the key is not set."""
        self._table.put_setting(key, None)

    @staticmethod
    def _unreadable(key: str, expected: str) -> Exception:
        return error_for(ReasonCode.STORE_UNREADABLE, f"setting {key} is not {expected}", setting=key)

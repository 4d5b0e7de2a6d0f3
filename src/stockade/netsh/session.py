"""What a command works on and what it gives back."""

from dataclasses import dataclass, field
from typing import TypeAlias

from stockade.model.reasons import Reason
from stockade.policy.contract import PolicyStore

# A dictionary or list of JSON, as it goes to `json.dumps`.
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


@dataclass(slots=True)
class Session:
    """One run of the command language: the store and, between commands, the context that was entered
    (`ipsec static`)."""

    store: PolicyStore
    context: tuple[str, ...] = ()
    ended: bool = False  # `exit` was said


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command did. `text` is for people, without a newline at its end, and empty where netsh says
    nothing; `data` is the same for programs; `status` is the exit status. `line` and `source` say where in a
    script the command stood (0 and empty outside one). `reason` is why where the command failed."""

    text: str = ""
    data: JsonValue = None
    status: int = 0
    line: int = 0
    source: str = ""
    reason: Reason | None = field(default=None)

    @property
    def failed(self) -> bool:
        return self.status != 0


def reason_data(reason: Reason) -> JsonValue:
    """The JSON form of a reason (`Reason.as_dict`), typed as JSON."""
    code = reason.code
    return {
        "reason": code.word,
        "text": str(reason),
        "remedy": code.remedy,
        "fault": code.fault.value,
        "windows_code": code.windows_code,
        "facts": dict(reason.facts),
    }

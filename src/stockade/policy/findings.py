"""What `lint` reports: findings, each with a remedy. No finding repeats a key, nor its length."""

from dataclasses import dataclass
from enum import StrEnum

from stockade.model.filters import Provenance


class Lint(StrEnum):
    """What a finding is about; people filter by these words."""

    RULE_WITHOUT_FILTERS = "rule-without-filters"
    RULE_NAMES_NOTHING = "rule-names-nothing"
    REFUSED = "refused"
    DEFAULT_RESPONSE = "default-response"
    WEAK_ALGORITHM = "weak-algorithm"
    WEAK_PRESHARED_KEY = "weak-preshared-key"
    PRESHARED_KEY = "preshared-key"
    NO_AUTHENTICATION = "no-authentication"
    SHADOWED = "shadowed"
    RULE_NEVER_DECIDES = "rule-never-decides"
    REDUNDANT = "redundant"
    BLOCK_OVERRULED = "block-overruled"
    CONFLICT = "conflict"
    NEVER_MATCHES = "never-matches"
    NO_SERVER = "no-server"
    NAME_NOT_RESOLVED = "name-not-resolved"
    CONNECTION_TYPE = "connection-type"
    FAMILY_NOT_SECURED = "family-not-secured"
    METHODS_LEFT_OUT = "methods-left-out"
    OPENS_MORE = "opens-more"
    CLEAR_ALLOWED = "clear-allowed"
    LOCKOUT = "lockout"
    INCOMPLETE = "incomplete"


class Severity(StrEnum):
    """`error`: the policy does not do what it says, locks the computer out or protects nothing. `warning`: it
    protects less than it seems to. `note`: it could be tidier."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


REMEDIES = {
    Lint.RULE_WITHOUT_FILTERS: "add filters to the list, or delete the rule",
    Lint.RULE_NAMES_NOTHING: "create the missing object, or let the rule name another one",
    Lint.REFUSED: "change what the refusal names; until then the policy before it stays in force",
    Lint.DEFAULT_RESPONSE: "deactivate the rule (activatedefaultrule=no) where no peer needs it",
    Lint.WEAK_ALGORITHM: "delete the method, or put a stronger one in its place (AES, SHA-256, group 14)",
    Lint.WEAK_PRESHARED_KEY: "take a random key of 24 characters or more",
    Lint.PRESHARED_KEY: "use Kerberos or certificates; keep pre-shared keys for tests",
    Lint.NO_AUTHENTICATION: "add a method that both sides have",
    Lint.SHADOWED: "delete the filter, or make the one before it narrower",
    Lint.RULE_NEVER_DECIDES: "delete the rule, or make the rules before it narrower",
    Lint.REDUNDANT: "delete the filter: the wider one does the same",
    Lint.BLOCK_OVERRULED: "add a block filter with the same addresses as the filter that overrules it",
    Lint.CONFLICT: "delete one of the two filters, or make one of them narrower",
    Lint.NO_SERVER: "nothing where the computer learns of such a server later, or the question is about"
    " another computer; otherwise name the server's address",
    Lint.NEVER_MATCHES: "correct the addresses, or delete the filter",
    Lint.NAME_NOT_RESOLVED: "correct the name or the resolver, or write the addresses instead of the name",
    Lint.CONNECTION_TYPE: "write “me” at this computer's end, or make the rule one for all connections",
    Lint.FAMILY_NOT_SECURED: "write addresses of one family, and a rule of its own for the other one",
    Lint.METHODS_LEFT_OUT: "delete the methods that are not used, or take the data plane in user space",
    Lint.OPENS_MORE: "make the filter one-way, or name the port of this computer's end",
    Lint.CLEAR_ALLOWED: "switch soft off as soon as every peer can negotiate",
    Lint.LOCKOUT: "add a rule that permits this traffic with the servers that the computer needs",
    Lint.INCOMPLETE: "check the parts of a large policy on their own",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning: its kind, a sentence, where it comes from, and what to do about it ("" = what is usual
    for its kind)."""

    kind: Lint
    text: str
    provenance: Provenance
    severity: Severity = Severity.WARNING
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.remedy:
            object.__setattr__(self, "remedy", REMEDIES[self.kind])

    def __str__(self) -> str:
        return f"{self.provenance}: {self.text}"

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        where = self.provenance
        return {
            "kind": self.kind.value,
            "severity": self.severity.value,
            "text": self.text,
            "remedy": self.remedy,
            "where": str(where),
            "store": where.store,
            "policy": where.policy,
            "rule": where.rule,
            "filter_list": where.filter_list,
            "filter_index": where.filter_index,
            "file": None if where.origin is None else where.origin.file,
            "line": None if where.origin is None else where.origin.line or None,
        }

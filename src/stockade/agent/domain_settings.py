"""What `agent.toml` says about the domain, and what is asked of the program that reads the directory."""

import json
from dataclasses import asdict, dataclass

LIFETIME = 90
"""Seconds for everything that one look at the directory does, all controllers included."""


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """`domain` empty: no policy of a domain. Times in seconds: group policy is refreshed after `refresh`
    and up to `jitter` more; `first_retry` scales the schedule after failures (a minute)."""

    domain: str = ""
    controllers: tuple[str, ...] = ()
    computer: str = ""
    refresh: float = 90 * 60.0
    jitter: float = 30 * 60.0
    first_retry: float = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """`keytab` empty: the tickets of who runs this. `computer` empty: the keytab's account. `controllers`
    empty: those that DNS names."""

    domain: str
    site: str = ""
    controllers: tuple[str, ...] = ()
    keytab: str = ""
    computer: str = ""
    unit: str = ""
    addresses: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Request":
        """What `encode` wrote."""
        form = json.loads(data)
        return cls(
            form["domain"],
            form["site"],
            tuple(form["controllers"]),
            form["keytab"],
            form["computer"],
            form["unit"],
            tuple(form["addresses"]),
        )

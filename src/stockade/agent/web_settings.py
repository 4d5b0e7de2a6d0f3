"""The web console's own settings: `web.toml` in /etc/stockade, or in the home folder with `--home`.

    listen = "127.0.0.1:8500"      # address and port; not loopback: with certificate, key and an account
    certificate = ""               # PEM, the server's certificate and what leads to its root
    key = ""                       # PEM
    names = []                     # host names by which browsers may call it, beside the address
    user = "stockade-web"          # who the process becomes; nobody where there is no such user
    session_minutes = 30           # a session ends when nothing was asked for so long, 1 to 1440

A file that cannot be read, an unknown key or a value out of range stops the start."""

import socket
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.objects import check_name

DEFAULT_LISTEN = "127.0.0.1:8500"
DEFAULT_USER = "stockade-web"
_KEYS = {"listen", "certificate", "key", "names", "user", "session_minutes"}


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What `web.toml` says, or the defaults."""

    address: Address
    port: int
    certificate: str = ""
    key: str = ""
    names: tuple[str, ...] = ()
    user: str = DEFAULT_USER
    session_seconds: float = 1800.0

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return bool(self.certificate)

    @property
    def hosts(self) -> frozenset[str]:
        """What a request's Host may say, without the port, in small letters. A name that somebody's DNS
        points here (rebinding) is none of them."""
        address = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        own = set() if self.address.is_unspecified else {address}
        if self.address.is_loopback:
            own |= {"localhost", "127.0.0.1", "[::1]"}
        return frozenset({*own, *(name.lower() for name in self.names)})

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return self._url(self.port)

    def url_on(self, listener: socket.socket) -> str:
        """The same with the port that the system chose, where the settings leave it to that (port 0)."""
        return self._url(int(listener.getsockname()[1]))

    def _url(self, port: int) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        if self.names and not self.address.is_loopback:
            host = self.names[0]
        return f"{'https' if self.secure else 'http'}://{host}:{port}"


def read_web_settings(path: Path) -> WebSettings:
    """The settings in `path`; the defaults if there is no such file. Errors: INVALID_SETTING."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from error
    unknown = set(content) - _KEYS
    if unknown:
        raise _invalid(path, f"unknown key {min(unknown)!r}; known are {', '.join(sorted(_KEYS))}")
    texts = {}
    for key, default in (
        ("listen", DEFAULT_LISTEN),
        ("certificate", ""),
        ("key", ""),
        ("user", DEFAULT_USER),
    ):
        value = content.get(key, default)
        if not isinstance(value, str):
            raise _invalid(path, f"{key} must be text")
        texts[key] = value
    names = content.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid(path, "names must be a list of host names")
    for name in names:
        try:
            if not _is_address(name):
                check_name(name)
        except ValueError as error:
            raise _invalid(path, f"names: {error}") from None
    minutes = content.get("session_minutes", 30)
    if not isinstance(minutes, int) or isinstance(minutes, bool) or not 1 <= minutes <= 1440:
        raise _invalid(path, "session_minutes: expected 1–1440")
    if bool(texts["certificate"]) != bool(texts["key"]):
        raise _invalid(path, "certificate and key go together")
    address, port = read_listen(texts["listen"], path)
    if not address.is_loopback and not texts["certificate"]:
        raise _invalid(
            path,
            f"listen {texts['listen']!r} is not loopback: passwords and policy would cross the network "
            "in clear; set certificate and key",
        )
    settings = WebSettings(
        address, port, texts["certificate"], texts["key"], tuple(names), texts["user"], minutes * 60.0
    )
    if not settings.hosts:
        raise _invalid(path, f"listen {texts['listen']!r} is every address: set names, or nobody may come in")
    return settings


def listen_on(settings: WebSettings) -> socket.socket:
    """A socket that listens there. HostError PORT_TAKEN."""
    family = socket.AF_INET6 if settings.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(settings.address), settings.port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        detail = f"the web console's TCP {settings.address} port {settings.port}: {error.strerror}"
        raise error_for(ReasonCode.PORT_TAKEN, detail) from error
    return listener


def read_listen(text: str, path: Path) -> tuple[Address, int]:
    """`127.0.0.1:8500` or `[::1]:8500`."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        if not port.isdecimal() or not 0 <= int(port) <= 65_535:
            raise ValueError
    except ValueError:
        raise _invalid(path, f"listen {text!r}: expected ADDRESS:PORT, such as {DEFAULT_LISTEN}") from None
    return address, int(port)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _invalid(path: Path, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_SETTING, detail, file=path)

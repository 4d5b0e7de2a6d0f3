"""Where the agent keeps things: one folder with `--home DIR`, the places of the FHS without it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from stockade.model.reasons import ReasonCode, error_for


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one agent. `state` is for its own use, `policy` is written by `stockade netsh` too."""

    policy: Path
    state: Path
    journal: Path
    socket: Path
    lock: Path
    settings: Path

    @property
    def persistent(self) -> Path:
        """The persistent policy store."""
        return self.policy.with_name("persistent.db")

    @property
    def names(self) -> Path:
        """What the DNS names in filters stood for last."""
        return self.state.with_name("names.json")

    @property
    def domain(self) -> Path:
        """The last good policy of the domain."""
        return self.state.with_name("domain.json")

    @property
    def restart(self) -> Path:
        """The secret that proves a restart to peers."""
        return self.state.with_name("restart.json")

    @property
    def data_plane(self) -> Path:
        """Where a data plane that outlives its agent is found (`driver.userspace.survival`)."""
        return self.socket.with_name("dataplane.sock")

    @property
    def kernel_ledger(self) -> Path:
        """What the SAs in the kernel are (`driver.kernel.ledger`)."""
        return self.socket.with_name("kernel-sas")

    @property
    def certificates(self) -> Path:
        """The machine store; the agent reads it, `stockade cert` writes it."""
        return self.policy.with_name("certificates")

    @property
    def home(self) -> Path | None:
        """The folder of `--home`; None where these are the places of the FHS."""
        return None if self == _system_places() else self.policy.parent

    @property
    def web_settings(self) -> Path:
        """The settings of the web console."""
        return self.settings.with_name("web.toml")

    @property
    def web_door(self) -> Path:
        """The folder with the socket that the agent has for the web console. See `agent/server.py`."""
        return self.socket.parent / "web" / "door"

    @property
    def web_accounts(self) -> Path:
        """The folder with the accounts of the web console."""
        return self.policy.parent / "web" / "accounts"

    @property
    def access(self) -> Path:
        """The access list; the agent reads it, `stockade access` writes it."""
        return self.policy.with_name("access.toml")

    @classmethod
    def of(cls, home: str | os.PathLike[str] | None = None) -> "Paths":
        """`home`, else $STOCKADE_HOME, else /etc/stockade, /var/lib/stockade, /run/stockade and
        /var/log/stockade."""
        chosen = home or os.environ.get("STOCKADE_HOME")
        if chosen:
            base = Path(chosen).absolute()
            return cls(
                base / "policy.db",
                base / "state.db",
                base / "journal",
                base / "agent.sock",
                base / "lock",
                base / "agent.toml",
            )
        return _system_places()

    def make_folders(self) -> None:
        """Make the folders, for their owner only: pre-shared keys are in the policy."""
        folders = {self.policy.parent, self.state.parent, self.journal, self.socket.parent}
        for folder in sorted(
            folders, key=lambda folder: len(folder.parts)
        ):  # parents first, with our own mode
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                mode = folder.stat()
            except OSError as error:
                code = (
                    ReasonCode.NOT_PRIVILEGED
                    if isinstance(error, PermissionError)
                    else ReasonCode.STORE_UNREADABLE
                )
                raise error_for(code, f"cannot make {folder}: {error.strerror}") from error
            if mode.st_uid not in (0, os.geteuid()) or mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise error_for(
                    ReasonCode.STORE_UNREADABLE,
                    f"{folder} belongs to or can be written by others; it would hold keys and policy",
                    owner=mode.st_uid,
                    mode=f"{stat.S_IMODE(mode.st_mode):04o}",
                )


def _system_places() -> Paths:
    library, run = Path("/var/lib/stockade"), Path("/run/stockade")
    return Paths(
        library / "policy.db",
        library / "state.db",
        Path("/var/log/stockade"),
        run / "agent.sock",
        run / "lock",
        Path("/etc/stockade/agent.toml"),
    )

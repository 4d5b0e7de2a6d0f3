"""GPT.INI of a group policy object on the SYSVOL share ([MS-GPOL] §2.2.4): the version that stands in the
directory as well. Windows' tools count both up together.

    //controller/SYSVOL/DOMAIN/Policies/{GPO}/GPT.INI        [General]  Version=65539

SMB is left to `smbclient`, with the tickets of who runs this."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from stockade.model.reasons import Reason, ReasonCode

PATIENCE = 30.0
MAXIMUM_FILE = 64 * 1024
_VERSION = re.compile(rb"(?im)^([ \t]*Version[ \t]*=[ \t]*)[0-9]*")


def write_version(controller: str, domain: str, gpo: str, version: int) -> Reason | None:
    """Put the version into the file. Why not, where that fails: the assignment itself is in the directory
    already."""
    program = shutil.which("smbclient")
    name = f"{domain}/Policies/{gpo}/GPT.INI"
    if program is None:
        return _not_written("the program smbclient is not installed", name)
    share = [program, f"//{controller}/sysvol", "--use-kerberos=required", "--client-protection=encrypt"]
    with tempfile.TemporaryDirectory(prefix="stockade-gpt-") as folder:
        local = Path(folder) / "GPT.INI"
        try:
            _run([*share, "-c", f'get "{name}" "{local}"'])
            if local.stat().st_size > MAXIMUM_FILE:
                return _not_written("it is too long to be one", name)
            local.write_bytes(with_version(local.read_bytes(), version))
            _run([*share, "-c", f'put "{local}" "{name}"'])
        except subprocess.TimeoutExpired:
            return _not_written("the controller does not answer", name)
        except (OSError, RuntimeError) as error:
            return _not_written(str(error), name)
    return None


def with_version(content: bytes, version: int) -> bytes:
    """The file with this version; everything else in it stays."""
    line = f"Version={version}".encode()
    if _VERSION.search(content):
        return _VERSION.sub(lambda match: match[1] + str(version).encode(), content, count=1)
    section = re.search(rb"(?im)^\[General\][ \t]*\r?\n", content)
    if section is None:
        return (
            content
            + (b"" if not content or content.endswith(b"\n") else b"\r\n")
            + b"[General]\r\n"
            + line
            + b"\r\n"
        )
    return content[: section.end()] + line + b"\r\n" + content[section.end() :]


def _run(argv: list[str]) -> None:
    """RuntimeError with the first words of what it says. It says NT_STATUS and succeeds, sometimes."""
    result = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    said = " ".join((result.stdout + result.stderr).split())
    status = re.search(r"NT_STATUS_[A-Z_]+", said)
    if result.returncode or (status and "getting file" not in said and "putting file" not in said):
        raise RuntimeError(status[0] if status else said[-200:] or "smbclient fails")


def _not_written(why: str, name: str) -> Reason:
    return Reason.of(
        ReasonCode.DIRECTORY_REFUSED,
        f"the new version of the group policy object is in the directory and not in its file: {why}",
        file=name,
    )

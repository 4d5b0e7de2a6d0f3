"""Make `libstockade_burst.so` with the system's C compiler and libcrypto.

    python -m stockade.driver.burst.build [--force] [--into FILE] [--flag=FLAG …]

The wheel's build does the same (`hatch_build.py`). Without a compiler or libcrypto's headers (Debian: gcc,
libssl-dev) it says so and ends with 1; nothing else is harmed: the data plane then works without the burst
path. Uses the standard library only, for it runs before anything is installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "libstockade_burst.so"
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
)
LINKS = ("-Wl,-z,relro,-z,now", "-lcrypto", "-ldl", "-pthread")


def sources() -> list[Path]:
    return sorted(FOLDER.glob("*.c"))


def is_fresh(library: Path = LIBRARY) -> bool:
    """Whether the library is newer than what it is made of."""
    if not library.exists():
        return False
    made = library.stat().st_mtime
    return all(entry.stat().st_mtime <= made for entry in (*sources(), FOLDER / "burst.h", Path(__file__)))


def compiler() -> str | None:
    """The C compiler: `CC`, or cc, gcc, clang."""
    wanted = os.environ.get("CC")
    return next(
        (found for name in ([wanted] if wanted else ["cc", "gcc", "clang"]) if (found := shutil.which(name))),
        None,
    )


def build(library: Path = LIBRARY, flags: Sequence[str] = ()) -> str | None:
    """Make the library; None, or why that was not possible, in one line. What was there stays until then."""
    program = compiler()
    if program is None:
        return "no C compiler"
    made = library.with_suffix(f".{os.getpid()}")
    command = [program, *FLAGS, *flags, "-o", str(made), *map(str, sources()), *LINKS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            errors = [
                line for line in done.stderr.splitlines() if "error" in line
            ] or done.stderr.splitlines()
            return f"{program} ended with {done.returncode}: {errors[0] if errors else 'no message'}"
        made.replace(library)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program}: {error}"
    finally:
        made.unlink(missing_ok=True)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the burst path of the user-space data plane.")
    parser.add_argument("--force", action="store_true", help="even where it is newer than its sources")
    parser.add_argument("--into", type=Path, default=LIBRARY, help="the library to write")
    parser.add_argument("--flag", action="append", default=[], help="one more flag for the compiler")
    given = parser.parse_args(arguments)
    if not given.force and is_fresh(given.into):
        return 0
    refusal = build(given.into, given.flag)
    if refusal is not None:
        print(f"the burst path was not built ({refusal}); the Python path does its work", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

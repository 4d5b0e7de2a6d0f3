"""The example policies: where they are, and how they get into a store: by the command line, as a user does
it.

They lie beside the source in a checkout, and inside the package where they were put there.
"""

import subprocess
import sys
from pathlib import Path

from stockade.lab.errors import LabError

SCENE = "two-hosts"
STOCKADE = (sys.executable, "-m", "stockade.console.main")
"""The command line of this very installation."""
COMMAND_SECONDS = 60.0


def example_policy(host: str) -> Path:
    """The netsh script with the policy of `alpha` or `beta`; `LabError` says where it was looked for."""
    module = Path(__file__).resolve()
    places = [module.parents[3] / "examples", module.parents[1] / "examples"]
    for place in places:
        script = place / SCENE / f"{host}.netsh"
        if script.is_file():
            return script
    raise LabError(f"no {SCENE}/{host}.netsh in {' or '.join(str(place) for place in places)}")


def apply_example_policy(host: str, home: Path) -> None:
    """`stockade --home DIR netsh -f` with the example policy of `host`; `LabError` if it is refused."""
    result = subprocess.run(
        [*STOCKADE, "--home", str(home), "netsh", "-f", str(example_policy(host))],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise LabError(f"stockade netsh -f refuses the policy of {host}: {' '.join(said[-3:])}")

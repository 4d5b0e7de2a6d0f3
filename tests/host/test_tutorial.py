"""The tutorial runs as it is written: every block of `docs/tutorial.md` marked as bash, in one shell."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stockade.lab.netns import NETNS_FOLDER

CHECKOUT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SECONDS = 900


@pytest.mark.timeout(SECONDS + 60)
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    blocks = BLOCK.findall((CHECKOUT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert len(blocks) > 10
    # what an installation puts on the path
    command = tmp_path / "stockade"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m stockade.console.main "$@"\n')
    command.chmod(0o755)
    script = "set -eu\n" + "\n".join(
        f"echo '== block {number}'\n{block}" for number, block in enumerate(blocks)
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    alone = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(
        alone, fcntl.LOCK_EX
    )  # its namespaces and its folder have names, and another run may be at it
    process = subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        clean_up(process.pid)
        os.close(alone)
    assert process.returncode == 0, output[-4000:]
    assert "the policy “First policy” is assigned".casefold() in output.casefold()
    assert ", 100% packet loss" in output, "the left host sent in clear what is to be secured"
    assert "/link?ticket=" in output
    assert output.count(", 0% packet loss") >= 2


def clean_up(group: int) -> None:
    """What an interrupted tutorial leaves behind, which is its own."""
    subprocess.run(["pkill", "-KILL", "-g", str(group)], check=False)
    for name in ("tutorial-left", "tutorial-right"):
        if (NETNS_FOLDER / name).exists():
            subprocess.run(["ip", "netns", "delete", name], check=False)
    subprocess.run(["rm", "-rf", "/tmp/tutorial"], check=False)

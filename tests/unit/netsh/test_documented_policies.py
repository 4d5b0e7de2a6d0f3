"""The policies that the manual shows are accepted as they stand there, whole."""

import re
from pathlib import Path

import pytest

from stockade.console.main import main

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```netsh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted(
    path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text("utf-8"))
)


def test_there_are_policies_in_the_manual() -> None:
    assert len(PAGES) >= 3


@pytest.mark.parametrize("page", PAGES)
def test_documented_policies_are_accepted(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, block in enumerate(BLOCK.findall((DOCS / page).read_text("utf-8"))):
        script = tmp_path / f"{number}.netsh"
        script.write_text(block)
        home = str(tmp_path / str(number))
        status = main(["--home", home, "netsh", "--atomic", "-f", str(script)])
        assert status == 0, capsys.readouterr()

"""The generated pages of the manual say what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from stockade.model.reasons import ReasonCode

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "generate_reference", CHECKOUT / "scripts" / "generate_reference.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_committed_pages_are_what_the_generator_makes(generator: ModuleType) -> None:
    assert generator.stale_pages() == [], "run `make reference` and commit docs/"


def test_every_reason_stands_once_on_the_page(generator: ModuleType) -> None:
    rows = [line.split("`")[1] for line in generator.reasons_page().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(code.word for code in ReasonCode)


def test_a_page_that_lacks_a_reason_is_stale(generator: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "reasons.md"
    for name, make in generator.PAGES.items():
        (tmp_path / name).write_text(make(), encoding="utf-8")
    assert generator.stale_pages(tmp_path) == []
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    page.write_text("".join(line for line in lines if "`psk-mismatch`" not in line), encoding="utf-8")
    assert generator.stale_pages(tmp_path) == ["reasons.md"]


def test_a_bar_in_a_text_does_not_break_the_table(generator: ModuleType) -> None:
    assert generator._cell("a | b\nc") == "a \\| b c"

"""Coverage-guided fuzzing with atheris (libFuzzer): the same targets as the tests, for as long as one likes.

    python tests/fuzz/guided.py engine --seconds 60        # or: wire, formats, netsh
    python tests/fuzz/guided.py engine FILE                # one input again

The corpus (`corpus/TARGET`) is kept in the repository and small: inputs that reach new code are added to it
only with `--grow`; without, they go to a temporary folder. A run also begins with the valid inputs that the
target's module names (`inputs_to_start_from`). An input that breaks the contract is written to
`crash-…` in the current folder: make a test of it, then mend. `test_guided_fuzz.py` runs the corpus, and
a short time of this where atheris is installed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
TARGETS = {
    "engine": ("engine_target", "fuzz_engine"),
    "wire": ("test_wire_fuzz", "fuzz_one"),
    "formats": ("test_formats_fuzz", "fuzz_one"),
    "netsh": ("test_netsh_fuzz", "fuzz_script"),
}
LONGEST = {"engine": 600, "wire": 2000, "formats": 4000, "netsh": 1500}
SLOW_SECONDS = 20
"""An input that takes longer counts as one that hangs; generous, for a machine that does other things too."""


def load(name: str) -> Callable[[bytes], None]:
    for folder in (HERE, HERE.parent / "exchange", HERE.parents[1] / "src"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    module, function = TARGETS[name]
    target: Callable[[bytes], None] = getattr(import_module(module), function)
    return target


def beginnings(name: str) -> list[bytes]:
    """What the target's module says to begin with."""
    make = getattr(import_module(TARGETS[name][0]), "inputs_to_start_from", list)
    found: list[bytes] = make()
    return found


def inputs(name: str) -> list[Path]:
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("files", nargs="*", help="run these inputs and end")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one in every run (it is printed)")
    parser.add_argument("--grow", action="store_true", help="keep inputs that reach new code in the corpus")
    options = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["stockade"]):
        target = load(options.target)
    with tempfile.TemporaryDirectory() as found:
        for number, data in enumerate(beginnings(options.target)):
            Path(found, f"beginning-{number}").write_bytes(data)
        words = [sys.argv[0], f"-timeout={SLOW_SECONDS}", f"-max_len={LONGEST[options.target]}"]
        words += ["-rss_limit_mb=1500", "-print_final_stats=1", f"-seed={options.seed}"]
        if options.files:
            words += options.files
        else:
            words += [f"-max_total_time={options.seconds}"]
            folders = [found, str(CORPUS / options.target)]
            words += reversed(folders) if options.grow else folders
        atheris.Setup(words, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

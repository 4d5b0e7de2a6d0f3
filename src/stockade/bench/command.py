"""Run one benchmark from the words of a command line: `stockade bench NAME …`, and the scripts of
`benchmarks/`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from stockade.bench import BENCHMARKS
from stockade.bench.report import Report


def run_benchmark(name: str, words: Sequence[str] | None = None, form: str = "text") -> int:
    """Run the benchmark `name` with `words` (those of this process if None) as its options.
    A wrong word ends the process with status 2 and the usage, as argparse does."""
    module = importlib.import_module(f"stockade.bench.{name}")
    add_arguments: Callable[[argparse.ArgumentParser], None] = module.add_arguments
    run: Callable[[argparse.Namespace, Report], None] = module.run
    parser = argparse.ArgumentParser(prog=f"stockade bench {name}", description=BENCHMARKS[name])
    parser.add_argument("--format", choices=("text", "json"), default=form, help="how to print")
    add_arguments(parser)
    options = parser.parse_args(sys.argv[1:] if words is None else words)
    report = Report(name, options.format)
    run(options, report)
    report.end()
    return 0

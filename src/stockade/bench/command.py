"""Run one benchmark from the words of a command line: `stockade bench NAME …`, and the scripts of
`benchmarks/`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from stockade.bench import BENCHMARKS
from stockade.bench.report import Report


def run_benchmark(
    name: str,
    words: Sequence[str] | None = None,
    form: str = "text",
    give: Callable[[Mapping[str, object], str], None] | None = None,
) -> int:
    """Run the benchmark `name` with `words` (those of this process if None) as its options. `give` prints
    what was found in forms other than text (without it there is JSON only).
    A wrong word ends the process with status 2 and the usage, as argparse does."""
    module = importlib.import_module(f"stockade.bench.{name}")
    add_arguments: Callable[[argparse.ArgumentParser], None] = module.add_arguments
    run: Callable[[argparse.Namespace, Report], None] = module.run
    parser = argparse.ArgumentParser(prog=f"stockade bench {name}", description=BENCHMARKS[name])
    forms = ("text", "json") if give is None else ("text", "table", "list", "json")
    parser.add_argument("--format", choices=forms, default=form, help="how to print")
    add_arguments(parser)
    options = parser.parse_args(sys.argv[1:] if words is None else words)
    report = Report(name, options.format)
    run(options, report)
    if give is None:
        report.end()
    elif options.format != "text":
        give(report.document(), options.format)
    return 0

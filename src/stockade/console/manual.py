"""Manual pages and shell completion, made from the command line's own parser: they cannot say anything else.

`stockade man FOLDER` writes `stockade.1` and one page for each command (man-pages(7), roff)."""

import argparse
from pathlib import Path

from stockade import __version__
from stockade.console.help import EXIT_CODES, leaves, one_screen
from stockade.model.reasons import ReasonCode, error_for

SHELLS = ("bash", "zsh", "tcsh")

NETSH_IN_BASH = """
# The words after netsh, and the names of policies, filter lists and rules, are known to netsh alone.
_stockade_netsh() {
  local line
  COMPREPLY=()
  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
    "${COMP_WORDS[0]}" netsh --complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
  [[ ${#COMPREPLY[@]} = 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
  return 0
}

_stockade() {
  local word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [[ "$word" == netsh ]] && { _stockade_netsh; return; }
  done
  _shtab_stockade "$@"
}

complete -o bashdefault -F _stockade stockade
"""


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that a shell reads."""
    import shtab

    script = str(shtab.complete(parser, shell=shell))
    return f"{script}\n{NETSH_IN_BASH}" if shell == "bash" else script


def pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """All pages by the name of their file."""
    found = {"stockade.1": _overview(parser)}
    for path, command in leaves(parser):
        name = f"stockade-{path.replace(' ', '-')}"
        found[f"{name}.1"] = _page(name, path, command)
    return found


def write_pages(parser: argparse.ArgumentParser, folder: Path) -> list[Path]:
    """Write them; HostError NOT_PRIVILEGED where that is not possible."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages(parser).items():
            path = folder / name
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise error_for(ReasonCode.NOT_PRIVILEGED, f"{folder}: {error.strerror}") from None
    return written


def commands_page(parser: argparse.ArgumentParser) -> str:
    """The manual's page of all commands, as Markdown."""
    lines = ["# Commands", "", "<!-- Written by scripts/generate_reference.py; do not edit. -->", ""]
    lines += ["```", one_screen(parser).rstrip(), "```", "", "| Exit status | |", "| --- | --- |"]
    lines += [f"| {code} | {text} |" for code, text in EXIT_CODES]
    for path, command in leaves(parser):
        lines += ["", f"## stockade {path}", "", _sentence(command), ""]
        rows = _arguments(command)
        if rows:
            lines += ["| | |", "| --- | --- |"]
            lines += [f"| `{name.replace('|', chr(92) + '|')}` | {_cell(text)} |" for name, text in rows]
        if command.epilog:
            lines += ["", "```", *_examples(command), "```"]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _sentence(command: argparse.ArgumentParser) -> str:
    text = " ".join((command.description or "").split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _examples(command: argparse.ArgumentParser) -> list[str]:
    text = command.epilog or ""
    for head in ("examples:", "example:"):
        text = text.removeprefix(head)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _arguments(command: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Options and arguments of its own, with what they mean; those of every command are on the first page."""
    found = []
    for action in command._actions:
        if action.dest in ("help", "home", "format") or action.help == argparse.SUPPRESS:
            continue
        if action.option_strings:
            metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            value = "" if action.nargs == 0 else f" {metavar}"
            name = ", ".join(action.option_strings) + value
        else:
            name = str(action.metavar or action.dest)
        text = action.help or ""
        if action.choices and not action.help:
            text = "one of: " + ", ".join(map(str, action.choices))
        found.append((name, text.replace("%(default)s", str(action.default)).replace("%%", "%")))
    return found


# ---- roff
def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def _head(name: str, text: str) -> list[str]:
    return [
        f'.TH "{name.upper()}" "1" "" "Stockade {__version__}" "Stockade"',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(text)}",
    ]


def _overview(parser: argparse.ArgumentParser) -> str:
    lines = _head("stockade", "the IPsec system of Windows for Linux")
    lines += [".SH SYNOPSIS", ".B stockade", "[\\-\\-home DIR] [\\-\\-format FORMAT] COMMAND …"]
    lines += [".SH DESCRIPTION", ".nf", *map(_roff, one_screen(parser).splitlines()), ".fi"]
    lines += [".SH OPTIONS"]
    lines += [".TP", ".B \\-\\-home DIR", "one folder for store, socket and journal (or $STOCKADE_HOME)"]
    lines += [".TP", ".B \\-\\-format text|table|list|json", "how to print; text is the default"]
    lines += _exit_status()
    lines += [".SH ENVIRONMENT", ".TP", ".B STOCKADE_HOME", "as \\-\\-home"]
    lines += [".TP", ".B NO_COLOR", "no colours; there are none either where output is no terminal"]
    lines += [".TP", ".B STOCKADE_DEBUG", "a traceback for faults of Stockade itself"]
    also = (f".BR stockade\\-{_roff(path.replace(' ', '-'))} (1)" for path, _ in leaves(parser))
    return "\n".join([*lines, ".SH SEE ALSO", *also, ""])


def _page(name: str, path: str, command: argparse.ArgumentParser) -> str:
    short = " ".join((command.description or "").split())
    lines = _head(name, short)
    usage = " ".join(command.format_usage().removeprefix("usage: ").split())
    lines += [".SH SYNOPSIS", _roff(usage), ".SH DESCRIPTION", _roff(_sentence(command))]
    rows = _arguments(command)
    if rows:
        lines.append(".SH OPTIONS")
        for option, text in rows:
            lines += [".TP", f".B {_roff(option)}", _roff(text) or "\\&"]
    if command.epilog:
        lines += [".SH EXAMPLES", ".nf", *map(_roff, _examples(command)), ".fi"]
    return "\n".join([*lines, *_exit_status(), ".SH SEE ALSO", ".BR stockade (1)", ""])


def _exit_status() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, text in EXIT_CODES:
        lines += [".TP", f".B {code}", _roff(text)]
    return lines

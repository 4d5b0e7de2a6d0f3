"""Help, made from the table: what there is at a level, and how a command is written."""

from stockade.netsh.grammar import Command, Node, Parameter
from stockade.netsh.session import JsonValue, Outcome

_EVERYWHERE = (
    ("?", "Shows this list; after a command, how it is written."),
    ("..", "Goes up one context."),
    ("exit", "Leaves (also bye, quit)."),
)


def node_help(node: Node) -> Outcome:
    """What there is in a context or group."""
    entries = [(word, child.help + _mark(child)) for word, child in sorted(node.children.items())]
    where = " ".join(("netsh", *node.path))
    shown = [*entries, *(_EVERYWHERE if node.enterable else _EVERYWHERE[:1])]
    width = max(len(word) for word, _ in shown)
    lines = [node.help, "", f"After “{where}”:"] if node.help else [f"After “{where}”:"]
    lines += [f"  {word:<{width}}  {text}" for word, text in shown]
    data: dict[str, JsonValue] = {
        "context": where,
        "commands": [{"word": word, "help": text} for word, text in entries],
    }
    return Outcome("\n".join(lines), data)


def _mark(child: Node | Command) -> str:
    return " (not in this version)" if isinstance(child, Command) and child.run is None else ""


def command_help(command: Command) -> Outcome:
    """Usage, parameters, notes and an example of one command."""
    if command.run is None:
        return Outcome(f"{command.help} Not available in this version.", {"command": " ".join(command.path)})
    pieces = [_usage(command, slot) for slot in dict.fromkeys(p.slot for p in command.parameters)]
    lines = [command.help, "", f"Usage: {command.title} {' '.join(pieces)}".rstrip()]
    if command.parameters:
        width = max(len(parameter.tag) for parameter in command.parameters)
        lines += ["", "Parameters, in the order in which they may stand without tags:"]
        lines += [f"  {p.tag:<{width}}  {_about(p)}" for p in command.parameters]
    if command.notes:
        lines += ["", command.notes]
    if command.example:
        lines += ["", f"Example: {command.example}"]
    data: dict[str, JsonValue] = {
        "command": " ".join(command.path),
        "help": command.help,
        "notes": command.notes,
        "example": command.example,
        "parameters": [
            {
                "tag": parameter.tag,
                "value": parameter.kind.label,
                "required": parameter.required,
                "default": parameter.default_text,
                "help": parameter.help,
                "available": not parameter.unavailable,
                "ours": parameter.ours,
            }
            for parameter in command.parameters
        ],
    }
    return Outcome("\n".join(lines), data)


def _usage(command: Command, slot: str) -> str:
    choices = [p for p in command.parameters if p.slot == slot and not p.unavailable]
    text = " | ".join(f"{p.tag}={p.kind.label}" for p in choices)
    if not choices:
        return ""
    if any(p.required for p in choices):
        return text if len(choices) == 1 else f"({text})"
    return f"[{text}]"


def _about(parameter: Parameter[object]) -> str:
    text = parameter.help
    if parameter.default_text:
        text += f" (default {parameter.default_text})"
    if parameter.unavailable:
        text += " (not in this version)"
    if parameter.ours:
        text += " (ours, with its tag only)"
    return text

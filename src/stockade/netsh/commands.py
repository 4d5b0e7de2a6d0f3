"""The whole table: contexts, groups, commands. To add a command: write it in the file of its group and add it
to that file's COMMANDS."""

from stockade.netsh import (
    config,
    dynamic_change,
    dynamic_show,
    files,
    static_add,
    static_delete,
    static_set,
    static_show,
    static_simple,
)
from stockade.netsh.grammar import Command, build_tree

STATIC, DYNAMIC, IPSEC = ("ipsec", "static"), ("ipsec", "dynamic"), ("ipsec",)

CONTEXTS: dict[tuple[str, ...], str] = {
    (): "The command language of Windows' network shell, as far as it is about IPsec.",
    IPSEC: "Commands for IPsec policies and security associations.",
    STATIC: "Commands for the policies in the store. They act when their policy is assigned.",
    DYNAMIC: "Commands for what is in force now. What they add is gone when the agent stops; settings stay.",
}

GROUPS = {
    "add": "Adds an object.",
    "set": "Changes an object.",
    "delete": "Deletes objects.",
    "show": "Shows objects.",
}

# Words of the language that this version does not have: context, words, help.
_LATER: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((), "advfirewall", "Connection security rules of the Windows Firewall."),
)

COMMANDS: tuple[Command, ...] = (
    *static_add.COMMANDS,
    *static_simple.COMMANDS,
    *static_set.COMMANDS,
    *static_delete.COMMANDS,
    *static_show.COMMANDS,
    *files.COMMANDS,
    *dynamic_change.COMMANDS,
    *dynamic_show.COMMANDS,
    *config.COMMANDS,
    *(Command(context, tuple(words.split()), help_) for context, words, help_ in _LATER),
)

TREE = build_tree(CONTEXTS, GROUPS, COMMANDS)

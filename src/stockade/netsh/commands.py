"""The whole table: contexts, groups, the commands that work and those that the language has but this version
does not. To add a command: write it in the file of its group, add it to that file's COMMANDS, and take its
line out of the table below."""

from stockade.netsh import static_add, static_delete, static_set, static_show
from stockade.netsh.grammar import Command, build_tree

STATIC, DYNAMIC, IPSEC = ("ipsec", "static"), ("ipsec", "dynamic"), ("ipsec",)

CONTEXTS: dict[tuple[str, ...], str] = {
    (): "The command language of Windows' network shell, as far as it is about IPsec.",
    IPSEC: "Commands for IPsec policies and security associations.",
    STATIC: "Commands for the policies in the store. They act when their policy is assigned.",
    DYNAMIC: "Commands for what is in force now.",
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
    ((), "exec", "Runs a script (stockade netsh -f FILE does)."),
    (IPSEC, "dump", "Writes the configuration as a script."),
    (STATIC, "exportpolicy", "Writes the policies of the store to a file."),
    (STATIC, "importpolicy", "Reads policies from a file."),
    (STATIC, "restorepolicyexamples", "Brings back the three example policies."),
    (STATIC, "show gpoassignedpolicy", "Shows the policy that a group policy object assigned."),
    (DYNAMIC, "add mmpolicy", "Adds a main-mode policy."),
    (DYNAMIC, "add qmpolicy", "Adds a quick-mode policy."),
    (DYNAMIC, "add rule", "Adds a rule."),
    (DYNAMIC, "delete all", "Deletes all dynamic policies, filters and rules."),
    (DYNAMIC, "delete mmpolicy", "Deletes a main-mode policy."),
    (DYNAMIC, "delete qmpolicy", "Deletes a quick-mode policy."),
    (DYNAMIC, "delete rule", "Deletes a rule."),
    (DYNAMIC, "delete sa", "Deletes security associations."),
    (DYNAMIC, "set config", "Sets the boot mode, exemptions and logging."),
    (DYNAMIC, "set mmpolicy", "Changes a main-mode policy."),
    (DYNAMIC, "set qmpolicy", "Changes a quick-mode policy."),
    (DYNAMIC, "set rule", "Changes a rule."),
    (DYNAMIC, "show all", "Shows policies, filters, security associations and statistics."),
    (DYNAMIC, "show config", "Shows the boot mode, exemptions and logging."),
    (DYNAMIC, "show mmfilter", "Shows main-mode filters."),
    (DYNAMIC, "show mmpolicy", "Shows main-mode policies."),
    (DYNAMIC, "show mmsas", "Shows main-mode security associations (stockade show sas does)."),
    (DYNAMIC, "show qmfilter", "Shows quick-mode filters (stockade show filters does)."),
    (DYNAMIC, "show qmpolicy", "Shows quick-mode policies."),
    (DYNAMIC, "show qmsas", "Shows quick-mode security associations (stockade show sas does)."),
    (DYNAMIC, "show rule", "Shows rules."),
    (DYNAMIC, "show stats", "Shows statistics."),
)

COMMANDS: tuple[Command, ...] = (
    *static_add.COMMANDS,
    *static_set.COMMANDS,
    *static_delete.COMMANDS,
    *static_show.COMMANDS,
    *(Command(context, tuple(words.split()), help_) for context, words, help_ in _LATER),
)

TREE = build_tree(CONTEXTS, GROUPS, COMMANDS)

"""Commands about whole stores and files: `dump`, `exportpolicy`, `importpolicy`, `restorepolicyexamples`,
`exec`."""

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum

from stockade.model.reasons import CallerError, Reason, ReasonCode, StockadeError, error_for
from stockade.netsh.config import DYNAMIC, config_commands
from stockade.netsh.contract import AssigningStore, JsonValue, World
from stockade.netsh.dump import (
    Keys,
    authentication_words,
    dump_policies,
    filter_words,
    is_dump,
    script,
    static_lines,
    written,
)
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.merge import Merged, merge_into
from stockade.netsh.session import Outcome, Session, reason_data
from stockade.netsh.static_common import STATIC
from stockade.netsh.values import FILE_NAME, YES_NO, choice
from stockade.netsh.words import quoted, shown
from stockade.policy.contract import PolicyStore
from stockade.policy.dynamic import DynamicSet
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import PolicySet
from stockade.policy.predefined import predefined_set

IPSEC = ("ipsec",)


class Release(StrEnum):
    WIN2K = "win2k"
    WIN2003 = "win2003"


FILE = Parameter("file", FILE_NAME, "name of the file", required=True)
SECRETS = Parameter(
    "secrets",
    YES_NO,
    "write pre-shared keys, in clear; --with-secrets is the same",
    default=False,
    default_text="no",
    ours=True,
)
EXPORT_SECRETS = Parameter(
    "secrets", YES_NO, "write pre-shared keys, in clear", default=True, default_text="yes", ours=True
)
REPLACE = Parameter(
    "replace", YES_NO, "put imported objects in the place of those of the same name", default=False,
    default_text="no", ours=True,
)  # fmt: skip
LOSSES = Parameter(
    "losses", YES_NO, "import although something of the file cannot come over", default=False,
    default_text="no", ours=True,
)  # fmt: skip
EXPORT_LOSSES = replace(LOSSES, help="write a .reg file although Windows cannot take everything")
RELEASE = Parameter(
    "release", choice(Release), "of which Windows; both are the same here", default=Release.WIN2003,
    default_text="win2003",
)  # fmt: skip


# -- dump


def dump_static(session: Session, arguments: Arguments) -> Outcome:
    return _script_outcome(dump_policies(session.store.read(), with_secrets=arguments[SECRETS]))


def dump_dynamic(session: Session, arguments: Arguments) -> Outcome:
    keys = Keys(shown=arguments[SECRETS])
    return _script_outcome(script(list(_dynamic_lines(session, keys)), keys))


def dump_all(session: Session, arguments: Arguments) -> Outcome:
    keys = Keys(shown=arguments[SECRETS])
    lines: list[str] = []
    for objects in _stores(session):
        lines += static_lines(objects, keys)
    if session.world.settings is not None:
        lines += _dynamic_lines(session, keys)
    return _script_outcome(script(lines, keys))


def _stores(session: Session) -> Iterator[PolicySet]:
    """The chosen store, and the persistent one where it holds something."""
    yield session.store.read()
    if session.store.name == "local" and session.world.open_store is not None:
        persistent = session.world.open_store("persistent").read()
        if persistent.policies or persistent.filter_lists or persistent.filter_actions:
            yield persistent


def _dynamic_lines(session: Session, keys: Keys) -> Iterator[str]:
    yield "ipsec dynamic"
    yield from config_commands(session.settings)
    try:
        objects = session.dynamic.read()
    except StockadeError as error:
        if error.reason.code not in (ReasonCode.AGENT_NOT_RUNNING, ReasonCode.NOT_AVAILABLE):
            raise
        yield "# No agent runs, so there is no dynamic policy."
        return
    yield from dynamic_commands(objects, keys)


def dynamic_commands(objects: DynamicSet, keys: Keys) -> Iterator[str]:
    """The commands that bring dynamic objects back. They get new GUIDs: nothing refers to those."""
    for main_mode in objects.main_mode_policies:
        methods = " ".join(map(str, main_mode.methods))
        yield (
            f"add mmpolicy name={written(main_mode.name)} qmpermm={main_mode.quick_modes_per_main_mode}"
            f" mmlifetime={main_mode.main_mode_minutes}"
            f" softsaexpirationtime={main_mode.soft_expiration_minutes} mmsecmethods={quoted(methods)}"
        )
    for quick_mode in objects.quick_mode_policies:
        methods = " ".join(map(str, quick_mode.methods))
        yield (
            f"add qmpolicy name={written(quick_mode.name)} soft={'yes' if quick_mode.soft else 'no'}"
            f" pfsgroup={quick_mode.pfs_group.value} qmsecmethods={quoted(methods)}"
        )
    for rule in objects.rules:
        where = f"dynamic rule {rule.name}"
        words = [
            *(word for word in filter_words(rule.filter, where) if not word.startswith("description=")),
            f"mmpolicy={written(rule.main_mode_policy)}",
            *([f"qmpolicy={written(rule.quick_mode_policy)}"] if rule.quick_mode_policy else []),
            f"conntype={rule.connection_type.value}",
            f"actioninbound={rule.action_inbound.value}",
            f"actionoutbound={rule.action_outbound.value}",
            *([] if rule.tunnel_endpoint is None else [f"tunneldstaddress={rule.tunnel_endpoint}"]),
            *authentication_words(rule.authentication, keys, where),
        ]
        yield f"add rule {' '.join(words)}"


def _script_outcome(text: str) -> Outcome:
    return Outcome(text.rstrip("\n"), {"script": text})


# -- files


def _file_name(name: str) -> str:
    """As Windows: a name without an ending gets `.ipsec`."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return name if "." in last.lstrip(".") else f"{name}.ipsec"


def export_policy(session: Session, arguments: Arguments) -> Outcome:
    objects, name = session.store.read(), _file_name(arguments[FILE])
    losses: tuple[Reason, ...] = ()
    if name.casefold().endswith(".reg"):
        content, losses = session.files.registry_form(
            objects, with_secrets=arguments[EXPORT_SECRETS], allow_losses=arguments[EXPORT_LOSSES]
        )
    else:
        content = dump_policies(objects, with_secrets=arguments[EXPORT_SECRETS]).encode("utf-8")
    session.files.write(name, content)
    text = f"{len(objects.policies)} policies of the {objects.store} store written to {shown(name)}."
    lines = [text, *(str(reason) for reason in losses)]
    return Outcome(
        "\n".join(lines), {"file": name, "policies": len(objects.policies), "notes": _reasons(losses)}
    )


def import_policy(session: Session, arguments: Arguments) -> Outcome:
    name = _file_name(arguments[FILE])
    try:
        content = session.files.read(name)
    except CallerError:
        if name == arguments[FILE]:
            raise
        name = arguments[FILE]  # the file has no ending either
        content = session.files.read(name)
    imported = session.files.windows_policies(content, name, session.store.name)
    problems: tuple[Reason, ...] = ()
    if imported is None:
        objects = read_script(content, session.store.name, name)
    else:
        objects, problems = imported.policy_set, imported.problems
        if not imported.complete and not arguments[LOSSES]:
            listed = "\n".join(f"  {reason}" for reason in problems[:50])
            raise error_for(
                ReasonCode.NOT_EXPRESSIBLE,
                f"not everything in {shown(name)} comes over, so nothing was imported:\n{listed}",
                expected="losses=yes to import the rest",
            )
    with session.store.transaction() as change:
        merged = merge_into(change, objects, overwrite=arguments[REPLACE])
    return _merged_outcome(
        merged, problems, f"Imported from {shown(name)}", domain=session.domain_store is not None
    )


def read_script(content: bytes, store: str, name: str) -> PolicySet:
    """The objects that our own readable form describes. CallerError INVALID_FILE where it is none, or a
    command in it fails; it may hold the commands of a dump and no others."""
    # Scripts are run by the interpreter, whose table this file is part of.
    from stockade.netsh.interpreter import decode_script, run_script

    text = decode_script(content, name)
    if not is_dump(text):
        raise error_for(
            ReasonCode.INVALID_FILE,
            f"{shown(name)} is neither a file of Windows (.ipsec, .reg, LDIF) nor a script of exportpolicy",
            expected="a script of another kind is run with netsh -f FILE",
        )
    made = MemoryStore(PolicySet(store=store))

    def same(location: str) -> PolicyStore:
        return made

    # No files, no agent, no names: whatever else such a script would do is refused.
    outcomes = run_script(text, Session(made, world=World(open_store=same)), source=name)
    for outcome in outcomes:
        if outcome.failed:
            raise error_for(ReasonCode.INVALID_FILE, outcome.text, file=name)
    return made.read()


def restore_examples(session: Session, arguments: Arguments) -> Outcome:
    if session.store.name != "local":
        raise error_for(
            ReasonCode.NOT_AVAILABLE,
            "the examples belong to the local store",
            expected="set store location=local",
        )
    with session.store.transaction() as change:
        merged = merge_into(change, predefined_set(), overwrite=arguments[REPLACE])
    return _merged_outcome(
        merged, (), "The three example policies are there; they show how it is done and protect nothing well"
    )


def _merged_outcome(
    merged: Merged, problems: tuple[Reason, ...], title: str, *, domain: bool = False
) -> Outcome:
    lines = [f"{title}: {len(merged.added)} added, {len(merged.replaced)} replaced, "
             f"{len(merged.unchanged)} were there already."]  # fmt: skip
    lines += [f"  replaced: {name}" for name in merged.replaced]
    lines += [f"  {reason}" for reason in problems]
    if merged.was_assigned:
        lines.append(
            f"“{merged.was_assigned}” was in force where the file comes from. An import puts nothing in "
            f"force:"
            f" set policy name={quoted(merged.was_assigned)} assign=yes{' gponame=…' if domain else ''} does."
        )
    data: dict[str, JsonValue] = {
        "added": list(merged.added),
        "replaced": list(merged.replaced),
        "unchanged": list(merged.unchanged),
        "was_assigned": merged.was_assigned,
        "notes": _reasons(problems),
    }
    return Outcome("\n".join(lines), data)


def _reasons(reasons: tuple[Reason, ...]) -> list[JsonValue]:
    return [reason_data(reason) for reason in reasons]


def execute(session: Session, arguments: Arguments) -> Outcome:
    # Scripts are run by the interpreter, whose table this file is part of.
    from stockade.netsh.interpreter import run_file

    return run_file(arguments[FILE], session)


def show_gpo_assigned(session: Session, arguments: Arguments) -> Outcome:
    """What the running agent has of its domain (`stockade rsop` asks the directory itself). Where the store
    is that of a domain: all that is assigned there."""
    store = session.domain_store
    if store is not None:
        return _show_assignments(store, arguments.get(GPO))
    domain = session.agent.status().get("domain")
    if not isinstance(domain, dict):
        return Outcome(
            "No policy is assigned by a group policy object: this computer takes no policies from a domain.",
            {"gpo_assigned_policy": None},
        )
    if not domain["policy"]:
        return Outcome(
            f"No group policy object of {domain['domain']} assigns a policy to this computer.",
            {"gpo_assigned_policy": None, "domain": domain["domain"]},
        )
    wanted = arguments.get(GPO)
    if wanted is not None and wanted.casefold() != str(domain["gpo"]).casefold():
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"the policy of this computer is assigned by “{domain['gpo']}”, not by “{wanted}”",
            domain=domain["domain"],
        )
    rows = (
        ("Source Domain", domain["domain"]),
        ("Domain Controller", domain["controller"]),
        ("GPO Name", domain["gpo"]),
        ("AD Policy Name", domain["policy"]),
    )
    text = "\n".join(f"{name:<23} : {value}" for name, value in rows)
    return Outcome(
        text,
        {
            "gpo_assigned_policy": domain["policy"],
            "gpo": domain["gpo"],
            "domain": domain["domain"],
            "controller": domain["controller"],
        },
    )


def _show_assignments(store: AssigningStore, gpo: str | None) -> Outcome:
    found = [one for one in store.assignments() if gpo is None or one.gpo.casefold() == gpo.casefold()]
    if gpo is not None and not found:
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"no group policy object “{shown(gpo)}” assigns an IPsec policy, or it may not be read",
            domain=store.domain,
        )
    rows: list[JsonValue] = [
        {"gpo": one.gpo, "policy": one.policy, "policy_dn": one.policy_dn} for one in found
    ]
    blocks = (
        f"{'GPO Name':<23} : {one.gpo}\n{'AD Policy Name':<23} : {one.policy or one.policy_dn}"
        for one in found
    )
    text = "\n\n".join(blocks) or f"No group policy object of {store.domain} assigns an IPsec policy."
    return Outcome(text, {"domain": store.domain, "assignments": rows})


GPO = Parameter("name", FILE_NAME, "name of the group policy object")
_DUMP_NOTE = (
    "Without keys the script has blanks in their place, and does not run before they are filled in. "
    "Windows never "
    "had this command."
)

COMMANDS = (
    Command((), ("exec",), "Runs a script.", (FILE,), execute, "The same as netsh -f FILE.", changes=False),
    Command(
        IPSEC,
        ("dump",),
        "Writes everything as a script: policies, settings, and what is in the agent's memory.",
        (SECRETS,),
        dump_all,
        _DUMP_NOTE,
        changes=False,
        ours=True,
    ),
    Command(
        STATIC,
        ("dump",),
        "Writes the policies of the store as a script.",
        (SECRETS,),
        dump_static,
        _DUMP_NOTE,
        changes=False,
        ours=True,
    ),
    Command(
        DYNAMIC,
        ("dump",),
        "Writes settings and dynamic policy as a script.",
        (SECRETS,),
        dump_dynamic,
        _DUMP_NOTE,
        changes=False,
        ours=True,
    ),
    Command(
        STATIC,
        ("exportpolicy",),
        "Writes all policies of the store to a file, with their keys.",
        (FILE, EXPORT_SECRETS, EXPORT_LOSSES),
        export_policy,
        "A name that ends in .reg makes a file for Windows' regedit. Any other makes a readable script, "
        "which "
        "importpolicy takes; a name without an ending gets .ipsec. The file is for its owner only.",
        "exportpolicy file=policies.ipsec",
        changes=False,
    ),
    Command(
        STATIC,
        ("importpolicy",),
        "Reads policies from a file into the store; none of them is put in force.",
        (FILE, REPLACE, LOSSES),
        import_policy,
        "Files of exportpolicy, of Windows' export (.ipsec), of regedit (.reg) and LDIF of Active Directory. "
        "An object with the same GUID is replaced.",
        "importpolicy file=policies.ipsec",
    ),
    Command(
        STATIC,
        ("restorepolicyexamples",),
        "Brings back the three example policies.",
        (RELEASE, REPLACE),
        restore_examples,
        "In the local store only. What was changed in them is undone; objects of yours that have their names "
        "are left alone, and the command is refused, unless replace=yes.",
        "restorepolicyexamples release=win2003",
    ),
    Command(
        STATIC,
        ("show", "gpoassignedpolicy"),
        "Shows the policy that a group policy object assigned.",
        (GPO,),
        show_gpo_assigned,
        changes=False,
    ),
)

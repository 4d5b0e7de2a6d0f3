"""The answers of the local API as text for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_COLOURS = {"permit": "green", "block": "red", "negotiate": "cyan"}


def status(answer: Mapping[str, Any]) -> None:
    """How the agent is: a list of names and values."""
    console = Console(highlight=False)
    rows = [
        ("Agent", f"stockade {answer['version']}, process {answer['pid']}, up {duration(answer['uptime'])}"),
        ("Data plane", answer["driver"]),
        ("Policy in force", answer["policy"] or "none assigned: everything is permitted"),
        ("Filters", str(answer["filters"])),
        ("Main modes / quick modes", f"{answer['main_modes']} / {answer['quick_modes']}"),
        ("Packets waiting for an SA", str(answer["held_packets"])),
        ("Addresses", ", ".join(answer["addresses"])),
    ]
    rows += _domain(answer.get("domain"))
    rows += _facts(answer["facts"])
    if answer["soft"]:
        rows.append(("Peers spoken with in clear (soft)", str(answer["soft"])))
    if answer["boot_filters"]:
        rows.append(("Boot filters in force", answer["boot_filters"]))
    rows += _web(answer.get("web"))
    rows += [
        (f"Refused: {word}", f"{count} packets") for word, count in answer["refused_packets"].items() if count
    ]
    rows += [(name, str(value)) for name, value in answer["ike"].items() if value]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:<{width}} : {escape(value)}", soft_wrap=True)
    refused = answer["policy_refused"]
    if refused:
        console.print(f"[red]The newest policy is not in force:[/] {escape(refused['text'])}", soft_wrap=True)
        console.print(f"What to do: {escape(refused['remedy'])}", soft_wrap=True)


def _web(web: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Where the web console is, and why it is not."""
    if web is None:
        return [("Web console", "not served: [web] serve = false in agent.toml")]
    texts = {
        "waiting": f"{web['url']}, starts with its first visitor",
        "starting": f"{web['url']}, starting",
        "running": f"{web['url']}, process {web['pid']}",
        "pausing": f"{web['url']}, failed and will be started again",
    }
    rows = [("Web console", texts.get(web["state"], "not served"))]
    if web["trouble"]:
        rows.append(("Web console's trouble", f"{web['trouble']['text']} ({web['trouble']['remedy']})"))
    return rows


def _domain(domain: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What comes from Active Directory, how old it is, and why there is nothing newer."""
    if domain is None:
        return []
    if domain["age"] is None:
        text = "never read"
    else:
        copy = ", from the copy of an earlier run" if domain["from_copy"] else ""
        what = f"“{domain['policy']}” by “{domain['gpo']}”" if domain["policy"] else "none assigned"
        text = f"{what}; read {duration(domain['age'])} ago from {domain['controller']}{copy}"
    rows = [(f"Policy of {domain['domain']}", text)]
    if domain["refused"]:
        rows.append(("Newest look at the directory", domain["refused"]["text"]))
    if domain["next"] is not None:
        rows.append(("Next look at the directory", f"in {duration(domain['next'])}"))
    return rows


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What filters by server and by name stand for, and how old that is."""
    rows = [
        (label, ", ".join(facts[key]))
        for key, label in (
            ("dns_servers", "DNS servers"),
            ("wins_servers", "WINS servers"),
            ("dhcp_servers", "DHCP servers"),
            ("gateways", "Default gateways"),
        )
        if facts[key]
    ]
    rows.append(("Host facts read", f"{duration(facts['age'])} ago"))
    for row in facts["names"]:
        found = "unknown" if row["addresses"] is None else ", ".join(row["addresses"]) or "no address"
        asked = "before this start" if row["age"] is None else f"{duration(row['age'])} ago"
        text = found if row["addresses"] is None else f"{found} (asked {asked})"
        rows.append((f"Name {row['name']}", f"{text}; {row['error']}" if row["error"] else text))
    return rows


def filters(answer: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"Policy in force: {escape(answer['policy'] or 'none')}")
    _table(
        console,
        ("Weight", "Direction", "Protocol", "Source", "Destination", "Action", "Packets", "From"),
        (
            (
                f"{row['weight']:x}",
                row["direction"],
                row["protocol"],
                _end(row["source"], row["source_port"]),
                _end(row["destination"], row["destination_port"]),
                f"[{_COLOURS[row['action']]}]{row['action']}[/]" + _switches(row),
                str(row["packets"]),
                escape(row["provenance"]),
            )
            for row in answer["filters"]
        ),
    )
    for warning in answer["warnings"]:
        console.print(f"[yellow]Note:[/] {escape(warning)}", soft_wrap=True)


def sas(answer: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    console.print("Main modes")
    _table(
        console,
        (
            "Cookies",
            "Local",
            "Peer",
            "Role",
            "Suite",
            "Authentication",
            "Peer is",
            "Remaining",
            "Quick modes",
        ),
        (
            (
                row["cookies"],
                row["local"],
                row["peer"],
                row["role"],
                row["suite"] or "(negotiating)",
                escape(row["authentication"]),
                escape(f"{row['peer_identity']} {row['peer_vendor']}".strip()),
                duration(row["remaining"]),
                str(row["quick_modes"]),
            )
            for row in answer["main_modes"]
        ),
    )
    console.print("Quick modes")
    _table(
        console,
        (
            "SPI in / out",
            "Peer",
            "Traffic",
            "Suite",
            "PFS",
            "In packets/bytes",
            "Out packets/bytes",
            "Remaining",
        ),
        (
            (
                f"{row['inbound_spi']} / {row['outbound_spi']}",
                row["peer"],
                row["traffic"],
                escape(row["suite"]),
                row["pfs_group"] or "no",
                f"{row['inbound_packets']}/{row['inbound_bytes']}",
                f"{row['outbound_packets']}/{row['outbound_bytes']}",
                duration(row["remaining"]),
            )
            for row in answer["quick_modes"]
        ),
    )
    if answer.get("soft"):
        console.print("Soft SAs: in clear")
        _table(
            console,
            ("Peer", "Traffic", "Why", "Remaining", "Rule"),
            (
                (
                    row["peer"],
                    row["traffic"],
                    escape(row["why"]),
                    duration(row["remaining"]),
                    escape(row["rule"]),
                )
                for row in answer["soft"]
            ),
        )


def journal(answer: Mapping[str, Any]) -> None:
    for record in answer["entries"]:
        print(journal_line(record))


def journal_line(record: Mapping[str, Any]) -> str:
    """One journal entry as one line."""
    known = {
        "number",
        "windows_events",
        "time",
        "kind",
        "reason",
        "text",
        "remedy",
        "fault",
        "windows_code",
        "facts",
    }
    fields = " ".join(f"{name}={value}" for name, value in record.items() if name not in known)
    return f"{record['time']} {record['kind']}: {record['text']}{' · ' + fields if fields else ''}"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s`, `7 s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; the cells are rich's markup."""
    _table(Console(), headings, rows)


def _table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headings, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console.width = 400  # a pipe has no width: never cut what grep should find
    console.print(table if table.row_count else "  none\n")


def _end(addresses: str, port: int) -> str:
    return f"{addresses}:{port}" if port else addresses


def _switches(row: Mapping[str, Any]) -> str:
    words = [word for word, name in (("inpass", "accept_clear"), ("soft", "allow_soft")) if row[name]]
    return f" ({', '.join(words)})" if words else ""

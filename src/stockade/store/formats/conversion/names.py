"""Names and texts of other makers, made fit for the policy model: present, unique within their kind, not
reserved, without control characters and of bounded length. Each change is a note."""

import unicodedata

from stockade.store.formats.problems import Problems

MAXIMUM_NAME = 255  # characters, as the command language takes them
MAXIMUM_TEXT = 2_000
RESERVED_NAME = "all"  # the command language means every object by it


def clean(text: str, most: int) -> str:
    """`text` on one line, without control characters, at most `most` characters."""
    kept = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in text[: 4 * most]
    )
    return kept.strip()[:most].strip()


def description_of(text: str, where: str, problems: Problems) -> str:
    """A description that fits."""
    found = clean(text, MAXIMUM_TEXT)
    if found != text.strip():
        problems.note("its description held line breaks or control characters, or was too long", where)
    return found


class Names:
    """The names of one kind that are taken (case-insensitively)."""

    def __init__(self, reserved: tuple[str, ...] = (RESERVED_NAME,)) -> None:
        self._taken = {name.casefold() for name in reserved}
        self._counts: dict[str, int] = {}

    def claim(self, wanted: str, fallback: str, where: str, problems: Problems) -> str:
        """`wanted` where it can be had, else the nearest name, with a note."""
        base = clean(wanted, MAXIMUM_NAME) or clean(fallback, MAXIMUM_NAME)
        name = base
        while name.casefold() in self._taken:
            # the counter goes on where it stopped, so that many objects of one name stay cheap
            number = self._counts.get(base.casefold(), 1) + 1
            self._counts[base.casefold()] = number
            suffix = f" ({number})"
            name = base[: MAXIMUM_NAME - len(suffix)].rstrip() + suffix
        self._taken.add(name.casefold())
        if name != wanted:
            problems.note(f"it is called “{name}” here", where)
        return name

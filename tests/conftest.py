"""Tiers: the first folder under tests/ is a test's tier. A tier whose needs are absent skips with the reason,
and the run ends with one line that says which tiers ran."""

import gc
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from stockade.lab.needs import TIERS, missing_for

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "support"))  # helpers that several tiers share
# what takes longest starts first
SLOWEST_FIRST = ("kernel", "peers/test_interop", "directory", "peers", "host")
WAITING = tuple(f"tests/{tier}/" for tier in ("kernel", "peers", "directory", "host"))
"""Of real programs, which wait for each other; the rest computes."""
# On a busy machine a slow example says nothing about the code: no test depends on time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
WORDS = ("passed", "failed", "error", "xpassed", "xfailed", "skipped")


def tier_of(path: Path) -> str | None:
    """`unit` for tests/unit/policy/test_x.py; None for a file outside tests/ or right in it."""
    try:
        parts = path.relative_to(TESTS).parts
    except ValueError:
        return None
    return parts[0] if len(parts) > 1 else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With --dist loadfile: the tests of the directory stay together, as they share a domain. The last of
    several workers takes what computes while there is any, the others what mostly waits: so there is both
    from the beginning of a run to its end, and the processors are neither idle first nor crowded last."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class WholeTiers(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            tier = "tests/directory/"
            return tier if nodeid.startswith(tier) else str(super()._split_scope(nodeid))

        def _assign_work_unit(self, node: object) -> None:
            computes = len(self.nodes) > 1 and node is self.nodes[-1]
            for scope in self.workqueue:
                if scope.startswith(WAITING) is not computes:
                    self.workqueue.move_to_end(scope, last=False)
                    break
            super()._assign_work_unit(node)

    return WholeTiers(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        found = (place for place, name in enumerate(SLOWEST_FIRST) if path.startswith(name))
        return next(found, len(SLOWEST_FIRST))

    items.sort(key=rank)  # stable: files stay together
    for item in items:
        tier = tier_of(item.path)
        reason = missing_for(tier) if tier is not None else None
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What collecting made stays to the end: no collector need look at it again, test by test."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    line = tiers_line(terminalreporter.stats, config.rootpath)
    if line:
        terminalreporter.write_line(line)


def tiers_line(stats: dict[str, list[object]], root: Path) -> str:
    """`tiers: unit 412 passed · host 14 passed · peers 5 skipped (strongSwan is not installed)`; empty if
    nothing ran.

    `stats` are the terminal reporter's, which with xdist hold what all workers did."""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {}
    for word in WORDS:
        for report in stats.get(word, ()):
            node = getattr(report, "nodeid", "")
            tier = tier_of((root / node.split("::")[0]).resolve())
            if tier is None:
                continue
            counts.setdefault(tier, Counter())[word] += 1
            text = getattr(report, "longrepr", None)
            if word == "skipped" and isinstance(text, tuple):
                reasons.setdefault(tier, Counter())[str(text[2]).removeprefix("Skipped: ")] += 1
    order = {tier: position for position, tier in enumerate(TIERS)}
    parts = []
    for tier in sorted(counts, key=lambda name: (order.get(name, len(order)), name)):
        text = ", ".join(f"{counts[tier][word]} {word}" for word in WORDS if counts[tier][word])
        if tier in reasons:
            text += f" ({'; '.join(reason for reason, _ in reasons[tier].most_common(3))})"
        parts.append(f"{tier} {text}")
    return "tiers: " + " · ".join(parts) if parts else ""

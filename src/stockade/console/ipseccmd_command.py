"""`stockade ipseccmd …`: one-liners in the language of Windows XP."""

from collections.abc import Sequence

from stockade.agent.paths import Paths
from stockade.console.netsh_command import own_options, print_outcomes
from stockade.console.netsh_world import Console
from stockade.netsh.ipseccmd import run_ipseccmd


def run(paths: Paths, words: Sequence[str], form: str) -> int:
    """Run one command; the exit status is 0 when it succeeded and a running agent took it over."""
    kept, form = own_options(words[1:] if list(words[:1]) == ["--"] else words, form)
    with Console(paths, ask=True) as console:
        outcome = run_ipseccmd(kept, console.session)
        print_outcomes([outcome], form, one_command=True)
        told = console.tell_agent()
    return 1 if outcome.failed or not told else 0

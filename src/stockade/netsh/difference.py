"""What changed between two states of a policy store, as commands of `netsh ipsec static`. Pure, and without
keys: that one changed is said, which it is and was is not."""

import difflib
from collections.abc import Mapping

from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.netsh.dump import Keys, static_lines
from stockade.netsh.words import quoted
from stockade.policy.objects import PolicySet

_BLANK = 'psk="(not shown)"'


def difference_lines(old: PolicySet, new: PolicySet, old_name: str, new_name: str) -> list[str]:
    """A unified difference without context. CallerError NOT_EXPRESSIBLE where a state cannot be written as
    commands."""
    return list(difflib.unified_diff(_lines(old), _lines(new), old_name, new_name, n=0, lineterm=""))


def _lines(objects: PolicySet) -> list[str]:
    try:
        return [_timeless(line) for line in static_lines(objects, Keys(shown=False)) if line]
    except StockadeError as error:
        raise error_for(
            ReasonCode.NOT_EXPRESSIBLE, f"{error.reason.detail}; a difference is written as commands"
        ) from None


def _timeless(line: str) -> str:
    words = [word for word in line.split(" ") if not word.startswith("modified=")]
    return " ".join(_BLANK if "%PSK_" in word else word for word in words)


def setting_lines(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The settings of `set config` that differ; the older value with a minus, the newer with a plus."""
    lines = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            lines += [
                f"{sign}set config property={key} value={quoted(values[key])}"
                for sign, values in (("-", old), ("+", new))
                if key in values
            ]
    return lines


def keys_that_changed(old: PolicySet, new: PolicySet) -> list[str]:
    """Rules whose pre-shared key is another one now, in words. The keys are not told."""
    before = {rule.guid: rule for policy in old.policies for rule in policy.rules}
    found = []
    for policy in new.policies:
        for rule in policy.rules:
            earlier = before.get(rule.guid)
            if earlier is None:
                continue
            keys = [method.key for method in rule.authentication if isinstance(method, PresharedKey)]
            keys_before = [one.key for one in earlier.authentication if isinstance(one, PresharedKey)]
            if len(keys) == len(keys_before) and keys != keys_before:
                found.append(f"rule “{rule.name}” of policy “{policy.name}”")
    return found

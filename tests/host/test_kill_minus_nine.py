"""A writer that is killed with SIGKILL at any moment leaves a store that opens and holds only whole
transactions.

Each transaction of the child writes generation n into three objects and the counter of a rule; after it is
committed the child prints n. The parent kills it at random moments."""

import random
import subprocess
import sys
import time
from pathlib import Path

from stockade.store.local import LocalStore

_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from stockade.policy.objects import *
from stockade.store.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
objects = store.read()
generation = int(objects.policies[0].description) if objects.policies else 0
print("ready", flush=True)
while True:
    generation += 1
    text = str(generation)
    with store.transaction() as change:
        now = change.read()
        lists = now.filter_list("L") or FilterList("L")
        end = FilterAddress.me(), FilterAddress.any()
        filters = tuple(Filter(*end, 6, 0, port, description=text) for port in range(1, 20))
        change.put_filter_list(replace(lists, filters=filters, description=text))
        change.put_filter_action(replace(now.filter_action("A") or FilterAction("A"), description=text))
        policy = now.policy("P") or Policy("P")
        rules = (Rule("r " + text, "L", "A"),)
        change.put_policy(replace(policy, rules=rules, description=text, assigned=True))
    print(generation, flush=True)
"""


def test_only_whole_transactions_survive_a_kill(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    moments = random.Random(seed)
    path = tmp_path / "policy.db"
    total = 0
    for round_number in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        # Half of the kills hit the writing loop after some transactions, half may hit the start too.
        output = []
        if round_number % 2:
            assert child.stdout.readline() == "ready\n"
            output = [child.stdout.readline() for _ in range(moments.randrange(1, 8))]
            time.sleep(moments.uniform(0.0, 0.05))
        else:
            time.sleep(moments.uniform(0.1, 0.5))
        child.kill()
        output += child.stdout.read().split()
        child.wait()
        child.stdout.close()
        acknowledged = max([total, *(int(word) for word in output if word.strip().isdigit())])

        objects = LocalStore(path).read()
        if not objects.policies:
            assert acknowledged == 0
            continue
        (policy,), (filter_list,), (action,) = objects.policies, objects.filter_lists, objects.filter_actions
        total = int(policy.description)
        texts = {filter_list.description, action.description, *(f.description for f in filter_list.filters)}
        assert texts == {str(total)}
        assert [rule.name for rule in policy.rules] == [f"r {total}"]
        assert len(filter_list.filters) == 19
        # What was reported as done is there; one more may have been done and not yet reported.
        assert acknowledged <= total <= acknowledged + 1
    assert total > 0, "no transaction was committed at all, so nothing was tested"

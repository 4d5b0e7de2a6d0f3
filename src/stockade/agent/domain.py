"""The domain's policy on this computer: when it is read, what of it is in force, and what is kept of it.

Read at start, then when the policy's polling interval or the refresh interval of group policy with its
jitter has passed, whichever is first: either reads assignment and objects. After a failure the schedule of
[MS-GPIPSEC] §3.2 holds: 1, 4, 25, then 166 minutes. Until there is a better one the last good policy stays
in force, also over restarts: it is kept in a file once it is enforced."""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.domain_settings import LIFETIME, DomainSettings, Request
from stockade.agent.journal import Entry
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for, error_of
from stockade.policy.objects import PolicySet

if TYPE_CHECKING:  # an agent outside a domain need not load the readers of foreign forms
    from stockade.store.directory.evaluation import Evaluation
    from stockade.store.directory.snapshot import Snapshot

MAXIMUM_ANSWER = 128 << 20
MAXIMUM_RETRY_MINUTES = 166
FETCH_SECONDS = LIFETIME + 10.0


def next_retry(minutes: int) -> int:
    """The interval after this one: 0 → 1 → 4 → 25 → 166 → 166."""
    return min(MAXIMUM_RETRY_MINUTES, (minutes + 1) ** 2)


class DomainPolicy:
    """Keeps the domain's policy of one agent. `changed` is called when a read policy differs from the one in
    force."""

    def __init__(
        self,
        settings: DomainSettings,
        keytab: Path,
        cache: Path,
        journal: Callable[[Entry], None],
        changed: Callable[[], None],
        addresses: Callable[[], tuple[Address, ...]],
    ) -> None:
        self._settings, self._keytab, self._cache = settings, keytab, cache
        self._journal, self._changed, self._addresses = journal, changed, addresses
        self._snapshot: Snapshot | None = None
        self._evaluation: Evaluation | None = None
        self._kept: Snapshot | None = None
        self._minutes = 0
        self._wake = asyncio.Event()
        self.refusal: Reason | None = None
        self.due: float | None = None  # Unix time of the next look
        self.from_cache = False

    @property
    def configured(self) -> bool:
        return bool(self._settings.domain)

    @property
    def snapshot(self) -> "Snapshot | None":
        """What the policy in force was made of."""
        return self._snapshot

    @property
    def evaluation(self) -> "Evaluation | None":
        return self._evaluation

    def policy_sets(self) -> tuple[PolicySet, ...]:
        """The domain's store, where a policy is assigned."""
        found = self._evaluation
        return (found.policy_set,) if found is not None and found.policy is not None else ()

    def refresh(self) -> None:
        """Look now."""
        self._wake.set()

    # ---- the copy
    def start(self) -> None:
        """Take the last good policy from the file, if there is one."""
        if not self.configured:
            return
        try:
            data = self._cache.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            reason = Reason.of(ReasonCode.DIRECTORY_UNREADABLE, str(error.strerror), file=self._cache)
            self._tell("domain-copy-not-read", reason)
            return
        try:
            from stockade.store.directory.evaluation import evaluate
            from stockade.store.directory.snapshot import decode_snapshot

            snapshot = decode_snapshot(data)
            if snapshot.domain.casefold() != self._settings.domain.casefold():
                return  # the computer is in another domain now
            self._evaluation = evaluate(snapshot)
        except StockadeError as error:
            self._tell("domain-copy-not-read", error.reason)
            return
        self._snapshot = self._kept = snapshot
        self.from_cache = True
        taken = Reason.of(ReasonCode.DIRECTORY_READ, "the kept copy counts until a controller answers")
        self._tell("domain-copy-taken", taken)

    def keep(self) -> None:
        """What was read is in force: it is the last good one. HostError STATE_UNUSABLE."""
        if self._snapshot is None or self._snapshot is self._kept:
            return
        from stockade.store.directory.snapshot import encode_snapshot

        beside = self._cache.with_name(f".{self._cache.name}.new")
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_snapshot(self._snapshot))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._cache)
        except OSError as error:
            detail = f"{self._cache}: {error.strerror}"
            raise error_for(ReasonCode.STATE_UNUSABLE, detail) from None
        self._kept = self._snapshot

    # ---- looking
    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                wait = self._accept(await self._fetch())
            except StockadeError as error:
                wait = self._failed(error.reason)
            self.due = time.time() + wait
            self._wake.clear()
            # no wait_for: Python 3.11's forgets to be cancelled when the event comes at that moment
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _accept(self, snapshot: "Snapshot") -> float:
        """Take over what was read; seconds until the next look. HostError where it cannot be used."""
        from stockade.store.directory.evaluation import evaluate

        before = self._snapshot
        evaluation = evaluate(snapshot)
        same = before is not None and snapshot.same_content(before)
        self._snapshot, self._evaluation = snapshot, evaluation
        recovered, self.refusal = self.refusal is not None or self.from_cache, None
        self._minutes, self.from_cache = 0, False
        policy = evaluation.policy
        if not same or recovered:
            winner = evaluation.resultant.winner
            gpo = winner.gpo.name if winner else "none"
            name = policy.name if policy else "none"
            self._tell(
                "domain-policy-read",
                Reason.of(
                    ReasonCode.DIRECTORY_READ,
                    controller=snapshot.controller,
                    gpo=gpo,
                    policy=name,
                    changes="none" if same else "found",
                ),
            )
        if not same:
            for problem in evaluation.problems[:20]:
                self._tell("domain-object-doubtful", problem)
            self._changed()
        self.keep_if_same(same)
        settings = self._settings
        wait = settings.refresh + random.uniform(0, settings.jitter)
        return min(wait, max(60.0, policy.polling_minutes * 60.0)) if policy else wait

    def keep_if_same(self, same: bool) -> None:
        """The copy gets the new time of reading, so its age is right after a restart."""
        if same and self._kept is not None:
            with suppress(StockadeError):
                self.keep()

    def _failed(self, reason: Reason) -> float:
        before = self.refusal
        if before is None or (before.code, before.detail) != (reason.code, reason.detail):
            stays = "nothing of the domain" if self._snapshot is None else "the last good policy"
            self._tell("domain-policy-not-read", reason, in_force=stays)
        self.refusal = reason
        self._minutes = next_retry(self._minutes)
        return self._minutes * self._settings.first_retry

    async def _fetch(self) -> "Snapshot":
        """HostError DIRECTORY_UNREACHABLE, DIRECTORY_REFUSED, DIRECTORY_UNREADABLE, KERBEROS_UNAVAILABLE."""
        settings = self._settings
        request = replace(
            Request.of(settings, str(self._keytab)),
            site=self._snapshot.site if self._snapshot else "",
            addresses=tuple(map(str, self._addresses())),
            known=self._snapshot.stamp if self._snapshot else "",
        )
        before, found = self._snapshot, await read_in_process(request)
        return found if before is None else found.with_objects_of(before)

    def _tell(self, event: str, reason: Reason, **fields: str) -> None:
        self._journal(Entry(event, reason, tuple(fields.items())))


async def read_in_process(request: Request) -> "Snapshot":
    """`domain_fetch` as a process, which is killed where it takes too long. The errors are its."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stockade.agent.domain_fetch",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            answer = await _talk(process, request.encode())
    except TimeoutError:
        raise error_for(
            ReasonCode.DIRECTORY_UNREACHABLE,
            "the controller does not finish its answer",
            domain=request.domain,
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _answer(answer, request.domain)


async def _talk(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(request)
        await process.stdin.drain()
    process.stdin.close()
    parts, size = [], 0
    while part := await process.stdout.read(1 << 20):
        size += len(part)
        if size > MAXIMUM_ANSWER:
            raise error_for(ReasonCode.DIRECTORY_UNREADABLE, "the directory's answer is too long")
        parts.append(part)
    await process.wait()
    return b"".join(parts)


def _answer(answer: bytes, domain: str) -> "Snapshot":
    kind, _, rest = answer.partition(b"\n")
    if kind == b"snapshot":
        from stockade.store.directory.snapshot import decode_snapshot

        return decode_snapshot(rest)
    refused = refusal_in(kind, rest)
    if refused is not None:
        raise refused
    raise error_for(
        ReasonCode.DIRECTORY_UNREACHABLE, "reading the directory ended without an answer", domain=domain
    )


def refusal_in(kind: bytes, rest: bytes) -> StockadeError | None:
    """The error that the reading program tells."""
    if kind == b"refused":
        with suppress(ValueError, KeyError, TypeError):
            form = json.loads(rest)
            facts = tuple((str(name), str(value)) for name, value in form["facts"])
            return error_of(Reason(ReasonCode[form["reason"]], str(form["detail"]), facts))
    return None

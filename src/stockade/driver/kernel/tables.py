"""The kernel's two tables, states (SAs) and policies, as the driver reads and changes them: one netlink
socket of requests. What the kernel says by itself comes by the `listener`."""

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from stockade.driver.kernel import policies
from stockade.driver.kernel.ledger import Key
from stockade.driver.netlink import NetlinkError, NetlinkSocket
from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.sa import MAXIMUM_SPI, MINIMUM_SPI
from stockade.model.traffic import ESP
from stockade.wire import xfrm, xfrm_decode
from stockade.wire.netlink import NLM_F_CREATE, NLM_F_EXCL
from stockade.wire.xfrm import MessageType, Offload, Policy, State


class KernelTables:
    """Of the network namespace of the thread that calls `open`. Everything raises `HostError(DRIVER_FAILED)`,
    also while it is not open; `NetlinkError` where the kernel refuses."""

    def __init__(self) -> None:
        self._netlink: NetlinkSocket | None = None

    @property
    def is_open(self) -> bool:
        return self._netlink is not None

    def open(self) -> None:
        """`OSError` too."""
        self._netlink = NetlinkSocket(socket.NETLINK_XFRM)

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    @property
    def _open(self) -> NetlinkSocket:
        if self._netlink is None:
            raise error_for(ReasonCode.DRIVER_FAILED, "the driver is not started")
        return self._netlink

    # ---- policies ------------------------------------------------------------------------------------------

    def policies(self) -> list[Policy]:
        """Ours."""
        answers = self._open.dump(MessageType.GET_POLICY, xfrm.dump_policies())
        return [
            policy
            for policy in (
                xfrm_decode.decode_policy(answer.body) for answer in answers if _is_main_policy(answer.body)
            )
            if policies.is_ours(policy)
        ]

    def add_policy(self, policy: Policy) -> None:
        try:
            self._open.change(MessageType.NEW_POLICY, policy.encode(), NLM_F_CREATE | NLM_F_EXCL)
        except NetlinkError as error:
            if error.number == errno.EEXIST:
                raise error_for(
                    ReasonCode.DRIVER_FAILED,
                    f"another program has a policy for {policy.selector.source} -> "
                    f"{policy.selector.destination}",
                ) from None
            raise

    def replace_policy(self, policy: Policy) -> None:
        """A policy that is replaced, if only by itself, hands the packets that it holds on to be sent at
        once."""
        self._open.change(MessageType.UPDATE_POLICY, policy.encode())

    def remove_policy(self, policy: Policy) -> None:
        """One that is not there is no error."""
        try:
            self._open.change(MessageType.DELETE_POLICY, xfrm.policy_id(policy.selector, policy.direction))
        except NetlinkError as error:
            if error.number != errno.ENOENT:
                raise

    def remove_policies(self, gone: Iterable[Policy]) -> StockadeError | None:
        """In this order, as many as the kernel removes; what it refused at last is returned."""
        ids = [xfrm.policy_id(policy.selector, policy.direction) for policy in gone]
        return self._remove_all(MessageType.DELETE_POLICY, ids, errno.ENOENT)

    # ---- states --------------------------------------------------------------------------------------------

    def states(self) -> list[State]:
        """All of the kernel's, but those of other programs that we cannot read."""
        answers = self._open.dump(MessageType.GET_SA, xfrm.dump_states())
        found = []
        for answer in answers:
            with suppress(StockadeError):  # of a mode that we do not know
                found.append(xfrm_decode.decode_state(answer.body))
        return found

    def states_of(self, keys: Iterable[Key]) -> Iterator[State]:
        """Of these, those that are there."""
        for answer in self._open.get_all(MessageType.GET_SA, [xfrm.state_id(*key) for key in keys]):
            yield xfrm_decode.decode_state(answer.body)

    def has_esp(self, destination: Address, spi: int) -> bool:
        try:
            return bool(self._open.get(MessageType.GET_SA, xfrm.state_id(destination, spi, ESP)))
        except NetlinkError:
            return False

    def reserve_spi(self, local: Address, peer: Address) -> int:
        """The kernel chooses and keeps it back for some seconds, so that no other program gets it.
        `HostError(NO_SPI)`."""
        larval = State(None, peer, local, 0, ESP, 0, xfrm.XfrmMode.TRANSPORT)
        body = xfrm.allocate_spi(larval, MINIMUM_SPI, MAXIMUM_SPI)
        for answer in self._open.get(MessageType.ALLOCATE_SPI, body):
            if answer.type == MessageType.NEW_SA:
                return xfrm_decode.decode_state(answer.body).spi
        raise error_for(ReasonCode.NO_SPI, "the kernel gave none")

    def add_state(self, state: State, offload: Offload | None, *, reserved: bool) -> None:
        """Add the SA, to a network card where there is one that takes it. `reserved`: `reserve_spi` may have
        made its SPI."""
        if offload is not None:
            with suppress(NetlinkError):  # not refused by the card, but by the kernel for it: without, then
                self._add_state(replace(state, offload=offload), reserved)
                return
        self._add_state(state, reserved)

    def _add_state(self, state: State, reserved: bool) -> None:
        if reserved:  # there may be a larval SA, which is updated to become the SA
            try:
                self.replace_state(state)
                return
            except NetlinkError as error:
                if error.number != errno.ESRCH:
                    raise
        self._open.change(MessageType.NEW_SA, state.encode(), NLM_F_CREATE | NLM_F_EXCL)

    def replace_state(self, state: State) -> None:
        """Its numbers and its window stay."""
        self._open.change(MessageType.UPDATE_SA, state.encode())

    def remove_state(self, key: Key) -> None:
        """One that is not there is no error."""
        try:
            self._open.change(MessageType.DELETE_SA, xfrm.state_id(*key))
        except NetlinkError as error:
            if error.number != errno.ESRCH:
                raise

    def remove_states(self, keys: Iterable[Key]) -> StockadeError | None:
        """As many as the kernel removes; what it refused at last is returned."""
        return self._remove_all(MessageType.DELETE_SA, [xfrm.state_id(*key) for key in keys], errno.ESRCH)

    def _remove_all(self, kind: MessageType, ids: list[bytes], absent: int) -> StockadeError | None:
        refused: StockadeError | None = None
        for error in self._open.change_all(kind, ids):
            if error.number != absent:
                refused = error
        return refused


def state_key(state: State) -> Key:
    return state.destination, state.spi, state.protocol


def _is_main_policy(body: bytes) -> bool:
    """Policies of single sockets are in the dump too; their direction is beyond the three."""
    return len(body) > 160 and body[160] < 3

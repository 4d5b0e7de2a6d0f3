"""The user-space driver's parts of the system, as far as no device is needed."""

import os

import pytest

from stockade.driver.userspace import system
from stockade.model.reasons import HostError, ReasonCode, error_for


def test_a_device_that_gets_not_all_of_its_queues_keeps_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def open_queue(flags: int) -> int:
        if len(opened) == 2:
            raise error_for(ReasonCode.DRIVER_FAILED, "/dev/net/tun: Too many open files")
        opened.append(os.open("/dev/null", os.O_RDWR))
        return opened[-1]

    monkeypatch.setattr(system, "_open_queue", open_queue)
    with pytest.raises(HostError, match="Too many open files"):
        system._open_device(True, True, 3)
    assert len(opened) == 2
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

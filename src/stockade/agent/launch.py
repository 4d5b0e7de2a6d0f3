"""The start of an agent, in the order that makes it short: peers may be waiting for it.

The data-plane process loads on one processor while this one imports the key exchange (which is why the
service is imported late). Both together take about as long as the longer of them.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from stockade.agent.boot import close_gate
from stockade.agent.collector import calm_collector
from stockade.agent.paths import Paths
from stockade.agent.settings import read_settings
from stockade.agent.stores import Stores
from stockade.driver.contract import Driver, leave
from stockade.driver.probe import esp_refusal
from stockade.model.reasons import ReasonCode, error_for

DRIVERS = ("auto", "kernel", "userspace", "memory")
"""`memory` protects nothing: it takes SAs and moves no packet, for tests and measurements."""


def run_agent(
    paths: Paths,
    driver_name: str | None,
    ready: Callable[[], None] = lambda: None,
    without: frozenset[str] | None = None,
) -> None:
    """Run an agent in this process until it is told to stop. `driver_name` and `without` (offloads) outweigh
    the settings file.

    Errors: AGENT_RUNNING, NOT_PRIVILEGED, PORT_TAKEN, MISSING_PROGRAM, STORE_UNREADABLE, DRIVER_FAILED,
    INVALID_SETTING, or why the policy cannot be enforced."""
    os.umask(0o077)  # whatever an agent writes is for its owner
    paths.make_folders()
    settings = read_settings(paths.settings)
    lock = _lock(paths.lock)
    try:
        if driver_name is None and settings.driver == "memory":
            # A host that is to be protected must not lose its protection to one word in a file.
            raise error_for(
                ReasonCode.INVALID_SETTING, "driver memory: only by --driver", file=paths.settings
            )
        stores = Stores(paths)
        name = driver_name or settings.driver
        gate = close_gate(stores, wanted=name != "memory")
        driver = make_driver(name, paths, settings.without if without is None else without)
        driver.start()
        try:
            from stockade.agent.group_lookup import GroupLookup
            from stockade.agent.kerberos import HostKerberos
            from stockade.agent.service import Service

            calm_collector()
            groups = GroupLookup(settings.directory, settings.kerberos.keytab)
            kerberos = HostKerberos(settings.kerberos.keytab, settings.kerberos.principal, groups)
            asyncio.run(Service(paths, driver, ready, settings, stores, gate, kerberos, groups).run())
        finally:
            leave(driver)  # after an orderly end there is nothing to let go
    finally:
        os.close(lock)


def end_left(paths: Paths) -> None:
    """End the data plane that an agent left which died, and with it its SAs, those in the kernel too. Filters
    stay: what must be secured is closed. Errors: AGENT_RUNNING."""
    paths.make_folders()
    lock = _lock(paths.lock)
    try:
        from stockade.driver.userspace.survival import end_orphan

        end_orphan(paths.data_plane)
        if paths.kernel_ledger.exists():  # a driver in the kernel was not stopped, or not to its end
            from stockade.driver.kernel.driver import KernelDriver

            KernelDriver(paths.kernel_ledger).stop(keep_filters=True)
    finally:
        os.close(lock)


def make_driver(name: str, paths: Paths, without: frozenset[str] = frozenset()) -> Driver:
    """The data plane called `name`; `auto` is the kernel's where it has ESP, else the one in user space,
    both without these offloads."""
    if name not in DRIVERS:
        raise error_for(ReasonCode.SYNTAX, f"driver {name!r}: expected {' or '.join(DRIVERS)}")
    if name == "auto":
        name = "userspace" if esp_refusal() else "kernel"
    # Imported late: only one of them is needed.
    if name == "kernel":
        from stockade.driver.kernel.driver import KernelDriver
        from stockade.driver.kernel.offload import ESP_HW

        return KernelDriver(paths.kernel_ledger, hardware=ESP_HW not in without)
    if name == "memory":
        from stockade.driver.memory import MemoryDriver

        return MemoryDriver(lambda packet: None, lambda packet: None)
    from stockade.driver.userspace.driver import UserspaceDriver

    return UserspaceDriver(paths.state.parent, without=without, door=paths.data_plane)


def _lock(path: Path) -> int:
    """Hold the lock of this home as long as the process lives; a second agent is refused."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise error_for(ReasonCode.AGENT_RUNNING, f"the lock {path} is held") from None
    return descriptor

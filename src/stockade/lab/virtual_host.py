"""A host on a virtual network: a tiny stack, and between it and the wire what protects it.

    stack ⇄ MemoryDriver ⇄ VirtualNetwork        a host with a policy
              ⇅ HostCore (policy, key exchange)
    stack ⇄ VirtualNetwork                       a host without IPsec

The same `HostCore` as in the agent runs here; IKE datagrams pass the driver's filters like every other
packet, as they do on a real host.
"""

import os
from collections.abc import Callable, Sequence

from stockade.agent.core import HostCore
from stockade.agent.journal import Entry
from stockade.agent.known_peers import KnownPeers
from stockade.driver.memory import MemoryDriver
from stockade.ike.config import EngineConfig
from stockade.ike.proofs import RestartSecret
from stockade.lab.errors import LabError
from stockade.lab.stack import IpStack
from stockade.lab.virtual import Timer, VirtualNetwork
from stockade.model.addresses import Address, Endpoint
from stockade.policy.objects import PolicySet
from stockade.wire.udp_encapsulation import IKE_PORT, NAT_TRAVERSAL_PORT

TICK_SECONDS = 1.0
RandomBytes = Callable[[int], bytes]


class VirtualHost:
    """One host. Without `start_agent` it has no IPsec. `random` gives all randomness of the host."""

    def __init__(
        self, name: str, address: Address, network: VirtualNetwork, random: RandomBytes = os.urandom
    ) -> None:
        self.name = name
        self.address = address
        self.journal: list[Entry] = []
        self.stack = IpStack(address, network.clock, self._outbound, random)
        self.driver: MemoryDriver | None = None
        self.core: HostCore | None = None
        self._network = network
        self._clock = network.clock
        self._random = random
        self._timer: Timer | None = None
        self._pump_is_due = False
        network.attach(address, self._inbound)
        for port in (IKE_PORT, NAT_TRAVERSAL_PORT):
            self.stack.on_datagram(port, self._on_ike)

    def take_address(self) -> None:
        """Packets to its address come here from now on, wherever they went before: as a cluster's address
        moves."""
        self._network.attach(self.address, self._inbound)

    # ---- the agent ----

    def start_agent(
        self,
        policy_sets: Sequence[PolicySet],
        known_peers: KnownPeers | None = None,
        config: EngineConfig | None = None,
        restart_secret: RestartSecret | None = None,
    ) -> HostCore:
        """Start an agent with a policy; a running one is an error (`LabError`), and so is a policy that it
        refuses. What a killed one left in force is replaced."""
        if self.core is not None:
            raise LabError(f"{self.name} runs an agent already")
        now = self._clock.now
        driver = MemoryDriver(self._network.send, self.stack.receive, random=self._random)
        driver.start()
        core = HostCore(
            driver,
            [self.address],
            self._random,
            journal=self.journal.append,
            known_peers=known_peers,
            config=config,
            restart_secret=restart_secret,
        )
        result = core.load(policy_sets, now)
        if result.refusal is not None:
            raise LabError(f"{self.name} refuses the policy: {result.refusal}")
        self.driver, self.core = driver, core
        core.reconnect(now)
        self._pump()
        self._clock.call_later(TICK_SECONDS, lambda: self._tick(core))
        return core

    def kill_agent(self) -> None:
        """As SIGKILL does: no good-byes, SAs and keys are gone, the filters stay and keep closed what must be
        secured."""
        if self.driver is None or self.core is None:
            raise LabError(f"{self.name} runs no agent")
        self.driver.stop(keep_filters=True)
        self._forget_core()

    def stop_agent(self) -> None:
        """As SIGTERM does: tell the peers, take everything out."""
        if self.driver is None or self.core is None:
            raise LabError(f"{self.name} runs no agent")
        self.core.shutdown(self._clock.now)
        self._pump()
        self.driver.stop()
        self.driver = None
        self._forget_core()

    def _forget_core(self) -> None:
        self.core = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- packets ----

    def _outbound(self, packet: bytes) -> None:
        if self.driver is None:
            self._network.send(packet)
        else:
            self.driver.outbound(packet, self._clock.now)
            self._pump_soon()

    def _inbound(self, packet: bytes) -> None:
        if self.driver is None:
            self.stack.receive(packet)
        else:
            self.driver.inbound(packet, self._clock.now)
            self._pump_soon()

    def _on_ike(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        if self.core is not None:
            self.core.receive(datagram, local, remote, self._clock.now)
            self._pump_soon()

    # ---- the core's turns ----

    def _pump_soon(self) -> None:
        """Pump at the same moment, but not inside a call of the driver."""
        if self.core is not None and not self._pump_is_due:
            self._pump_is_due = True
            self._clock.call_later(0.0, self._pump)

    def _pump(self) -> None:
        self._pump_is_due = False
        if self.core is None:
            return
        self.core.pump(
            self._clock.now, lambda send: self.stack.send_datagram(send.datagram, send.local, send.remote)
        )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wanted = self.core.next_timeout()
        if wanted is not None:
            self._timer = self._clock.call_at(wanted, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self.core is not None:
            self.core.timeout(self._clock.now)
            self._pump()

    def _tick(self, core: HostCore) -> None:
        """The driver's own sense of time, as long as this very agent runs."""
        if self.core is core and self.driver is not None:
            self.driver.tick(self._clock.now)
            self._pump_soon()
            self._clock.call_later(TICK_SECONDS, lambda: self._tick(core))

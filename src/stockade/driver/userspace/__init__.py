"""The data plane in user space: nftables classifies, a TUN device brings what needs security, a process of
its own seals and opens it."""

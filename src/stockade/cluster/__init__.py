"""Several nodes behind one address: membership, what is replicated, takeover.

    node 1 ◀── who is my peer (authenticated UDP) ──▶ node 2        each has an address of its own
       ╲                                             ╱
        ╲──────────  one virtual address  ──────────╱               keepalived or a balancer moves it
                            │
                         clients

Something else decides where the virtual address is; the agent notices it coming and going. What the nodes
tell each other is with whom they have quick modes on it, so that the node which gets the address negotiates
with all of them at once (with initial contact), before any client has noticed anything. Keys are never told:
a captured node knows nothing of the sessions of another one, and there is no counter to keep in step.

`settings` is what an administrator says, `messages` the datagrams, `replication` who knows what (sans-IO).
The socket and the takeover itself are in `stockade.agent.cluster`.
"""

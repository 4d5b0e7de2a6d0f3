"""The web console: pages for people, made on the server, by a process of its own without privileges.

    browser ──HTTP(S)──▶ guard ──▶ pages ──▶ door ──Unix socket──▶ agent
                         host, session,      (`agent/server.py`)
                         token, rate, size

The process starts as root, binds its port, reads the TLS key, takes hold of two folders (the agent's door,
the accounts) and becomes nobody. From then on it can ask the agent what its door serves, and nothing else:
no key, no file, no socket of the host. It outlives the agent and says so while the agent is away."""

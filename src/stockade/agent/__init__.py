"""The service: the only room with sockets and clocks.

`core.py` joins policy, key exchange and driver without I/O (the laboratory runs it on a virtual clock);
`service.py` gives it sockets, timers, processes and signals; `api.py` is the one local API, `client.py` its
client.
"""

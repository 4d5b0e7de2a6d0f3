"""The key exchange, sans-IO: bytes and the time go in, bytes and effects come out. No sockets, no clocks.

`contract.py` has the seams, `engine.py` the five doors, `v1/` the exchanges of IKEv1 (RFC 2407–2409).
"""

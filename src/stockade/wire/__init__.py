"""Bytes ⇄ objects: ISAKMP (IKEv1), IP and transport headers, ESP, UDP encapsulation, captures.

No state, no keys, no I/O. Every decoder takes any bytes and gives a value or a `PeerError`, in time and
memory that the length of its input bounds. Decoders tolerate garbage in reserved fields, never a wrong
length; numbers that nobody knows survive a round trip.
"""

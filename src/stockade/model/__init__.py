"""The words that every room shares: addresses, traffic selectors, suites, identities, SA records, reasons.

Nothing here does I/O, knows a key derivation or parses a byte. Every class is a frozen, slotted dataclass
(or an enumeration) that checks itself when it is made: an object that exists is valid.
"""

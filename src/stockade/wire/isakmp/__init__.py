"""ISAKMP messages as IKEv1 uses them (RFC 2407, 2408, 2409, 3947 and [MS-IKEE]): constants, payloads,
messages."""

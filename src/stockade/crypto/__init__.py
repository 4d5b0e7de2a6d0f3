"""Every algorithm under its standard name, in one registry; no other room knows the library underneath.

Standing order of the room: lengths are checked before a library sees a byte; comparisons of secrets and of
integrity values take constant time; no object that holds a key shows it in its `repr`; randomness is a
parameter, so that a run can be repeated.

    registry       names, numbers, sizes: which cipher is transform 12, how long is its key
    hashing        digest, prf (HMAC), constant-time comparison
    ciphers        CBC for IKE messages
    packet         per-SA objects of the data path: CBC, AES-GCM, truncated HMAC
    key_exchange   Diffie-Hellman: MODP 1, 2, 14 and ECP 19, 20
    signatures     RSA and ECDSA: of IKEv1 and of certificates
    ikev1_keys     SKEYID and what comes from it (RFC 2409 §5)
"""

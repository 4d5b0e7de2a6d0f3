"""Machine certificates: the store under the home folder, chains, revocation; every refusal explained.

    names           distinguished names as text, compared as people mean them
    certificate     one certificate (over `cryptography.x509`)
    revocation      revocation lists (over `cryptography.x509`), StrongCRLCheck
    containers      PEM, PKCS #12 and PKCS #7 files (over `cryptography`)
    chain           from a peer's certificate to the root that the rule names, link by link
    credentials     what IKE asks: our own certificate for a root, a verdict on the peer's
    machine_store   the files

The X.509 parser of the library is used, its verifier is not: that one demands what the web's certificates
have (a subject alternative name, SHA-256, 2048 bits) and refuses by one word; Windows' rules are others, and
every link's refusal is to be explained.
"""

"""IKEv1: RFC 2407 (IPsec DOI), RFC 2408 (ISAKMP), RFC 2409 (the exchanges), as Windows speaks it
([MS-IKEE])."""

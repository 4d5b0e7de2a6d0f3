"""The numbers of ISAKMP and IKEv1.

RFC 2408 (payloads, exchanges, notifications), RFC 2409 appendix A (IKE attributes), RFC 2407 (IPsec DOI),
RFC 3947 (NAT traversal), RFC 3706 (dead peer detection), [MS-IKEE] §2.2, and the IANA registries "Magic
Numbers for ISAKMP Protocol", "IPSEC ISAKMP" and "Internet Key Exchange (IKE) Attributes". Only numbers stand
here; which of them we can do is the business of `stockade.crypto.registry`. Fields of payloads are plain
ints, so that unknown numbers survive; compare them with these members, and show them with `name_of`.
"""

from enum import IntEnum, IntFlag


def name_of(numbers: type[IntEnum], number: int) -> str:
    """The standard's spelling of `number` (`NO-PROPOSAL-CHOSEN`), or the number itself where it has no
    name."""
    try:
        return numbers(number).name.replace("_", "-")
    except ValueError:
        return str(number)


# ---- RFC 2408
class PayloadType(IntEnum):
    """RFC 2408 §3.1, RFC 3947 §3.2 and §5.2; from 128 on private: draft NAT-T and [MS-IKEE] §2.2."""

    NONE = 0
    SECURITY_ASSOCIATION = 1
    PROPOSAL = 2
    TRANSFORM = 3
    KEY_EXCHANGE = 4
    IDENTIFICATION = 5
    CERTIFICATE = 6
    CERTIFICATE_REQUEST = 7
    HASH = 8
    SIGNATURE = 9
    NONCE = 10
    NOTIFICATION = 11
    DELETE = 12
    VENDOR_ID = 13
    ATTRIBUTES = 14
    NAT_DETECTION = 20
    NAT_ORIGINAL_ADDRESS = 21
    GSS = 129
    NAT_DETECTION_DRAFT = 130
    NAT_ORIGINAL_ADDRESS_DRAFT = 131
    FRAGMENT = 132


class ExchangeType(IntEnum):
    """RFC 2408 §3.1, RFC 2409 §5.5 and §5.6; 243–246 are AuthIP ([MS-AIPS])."""

    NONE = 0
    BASE = 1
    IDENTITY_PROTECTION = 2
    AUTHENTICATION_ONLY = 3
    AGGRESSIVE = 4
    INFORMATIONAL = 5
    TRANSACTION = 6
    QUICK_MODE = 32
    NEW_GROUP_MODE = 33
    AUTHIP_MAIN_MODE = 243
    AUTHIP_QUICK_MODE = 244
    AUTHIP_EXTENDED_MODE = 245
    AUTHIP_NOTIFY = 246


class HeaderFlag(IntFlag):
    """RFC 2408 §3.1."""

    ENCRYPTION = 1
    COMMIT = 2
    AUTHENTICATION_ONLY = 4


class DomainOfInterpretation(IntEnum):
    ISAKMP = 0
    IPSEC = 1
    GDOI = 2


class Situation(IntFlag):
    """RFC 2407 §4.2. With the last two, labels follow in the SA payload; nobody uses them."""

    IDENTITY_ONLY = 1
    SECRECY = 2
    INTEGRITY = 4


class ProtocolId(IntEnum):
    """RFC 2407 §4.4.1."""

    ISAKMP = 1
    AH = 2
    ESP = 3
    IPCOMP = 4


class NotifyType(IntEnum):
    """RFC 2408 §3.14.1, RFC 2407 §4.6.3, RFC 3706 §5.3; 39001–39003 are ours
    (`stockade.ike.proofs`), 40003–40005 are Microsoft's ([MS-IKEE] §2.2.6)."""

    INVALID_PAYLOAD_TYPE = 1
    DOI_NOT_SUPPORTED = 2
    SITUATION_NOT_SUPPORTED = 3
    INVALID_COOKIE = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_MINOR_VERSION = 6
    INVALID_EXCHANGE_TYPE = 7
    INVALID_FLAGS = 8
    INVALID_MESSAGE_ID = 9
    INVALID_PROTOCOL_ID = 10
    INVALID_SPI = 11
    INVALID_TRANSFORM_ID = 12
    ATTRIBUTES_NOT_SUPPORTED = 13
    NO_PROPOSAL_CHOSEN = 14
    BAD_PROPOSAL_SYNTAX = 15
    PAYLOAD_MALFORMED = 16
    INVALID_KEY_INFORMATION = 17
    INVALID_ID_INFORMATION = 18
    INVALID_CERT_ENCODING = 19
    INVALID_CERTIFICATE = 20
    CERT_TYPE_UNSUPPORTED = 21
    INVALID_CERT_AUTHORITY = 22
    INVALID_HASH_INFORMATION = 23
    AUTHENTICATION_FAILED = 24
    INVALID_SIGNATURE = 25
    ADDRESS_NOTIFICATION = 26
    NOTIFY_SA_LIFETIME = 27
    CERTIFICATE_UNAVAILABLE = 28
    UNSUPPORTED_EXCHANGE_TYPE = 29
    UNEQUAL_PAYLOAD_LENGTHS = 30
    CONNECTED = 16384
    RESPONDER_LIFETIME = 24576
    REPLAY_STATUS = 24577
    INITIAL_CONTACT = 24578
    R_U_THERE = 36136
    R_U_THERE_ACK = 36137
    STOCKADE_TOKEN = 39001
    STOCKADE_STATE_LOST = 39002
    STOCKADE_FAREWELL = 39003
    MICROSOFT_STATUS = 40003
    MICROSOFT_DOS_COOKIE = 40004
    MICROSOFT_EXCHANGE_INFO = 40005


NOTIFY_ERROR_LAST = 16383
"""Notify types 1–16383 are errors, 16384 and above are status (RFC 2408 §3.14.1)."""


class ExchangeInfoFlag(IntFlag):
    """Data of MICROSOFT_EXCHANGE_INFO ([MS-IKEE] §2.2.6)."""

    NEGOTIATION_DISCOVERY_BOUNDARY = 1
    GUARANTEE_ENCRYPTION = 2


class CertificateEncoding(IntEnum):
    """RFC 2408 §3.9."""

    NONE = 0
    PKCS7_WRAPPED_X509 = 1
    PGP = 2
    DNS_SIGNED_KEY = 3
    X509_SIGNATURE = 4
    X509_KEY_EXCHANGE = 5
    KERBEROS_TOKEN = 6
    CERTIFICATE_REVOCATION_LIST = 7
    AUTHORITY_REVOCATION_LIST = 8
    SPKI = 9
    X509_ATTRIBUTE = 10


class IdentificationType(IntEnum):
    """RFC 2407 §4.6.2.1, RFC 3554 (LIST), [MS-IKEE] §2.2.10 (CGA)."""

    IPV4_ADDR = 1
    FQDN = 2
    USER_FQDN = 3
    IPV4_ADDR_SUBNET = 4
    IPV6_ADDR = 5
    IPV6_ADDR_SUBNET = 6
    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11
    LIST = 12
    MICROSOFT_CGA = 250


# ---- RFC 2409 appendix A: phase 1
class IkeAttribute(IntEnum):
    """Attributes of the KEY_IKE transform."""

    ENCRYPTION_ALGORITHM = 1
    HASH_ALGORITHM = 2
    AUTHENTICATION_METHOD = 3
    GROUP_DESCRIPTION = 4
    GROUP_TYPE = 5
    GROUP_PRIME = 6
    GROUP_GENERATOR_ONE = 7
    GROUP_GENERATOR_TWO = 8
    GROUP_CURVE_A = 9
    GROUP_CURVE_B = 10
    LIFE_TYPE = 11
    LIFE_DURATION = 12
    PRF = 13
    KEY_LENGTH = 14
    FIELD_SIZE = 15
    GROUP_ORDER = 16
    GSS_IDENTITY_NAME = 16384


class IkeEncryption(IntEnum):
    """The ciphers of phase 1. AES_CBC and CAMELLIA_CBC need KEY_LENGTH (bits) beside them."""

    DES_CBC = 1
    IDEA_CBC = 2
    BLOWFISH_CBC = 3
    RC5_R16_B64_CBC = 4
    TRIPLE_DES_CBC = 5
    CAST_CBC = 6
    AES_CBC = 7
    CAMELLIA_CBC = 8


class IkeHash(IntEnum):
    MD5 = 1
    SHA = 2
    TIGER = 3
    SHA2_256 = 4
    SHA2_384 = 5
    SHA2_512 = 6


class AuthenticationMethodNumber(IntEnum):
    """65001 is Windows' Kerberos here; other vendors use the same number for XAUTH with a pre-shared key."""

    PRESHARED_KEY = 1
    DSS_SIGNATURES = 2
    RSA_SIGNATURES = 3
    RSA_ENCRYPTION = 4
    RSA_ENCRYPTION_REVISED = 5
    ECDSA_256 = 9
    ECDSA_384 = 10
    ECDSA_521 = 11
    GSS_KERBEROS = 65001
    MICROSOFT_CGA = 65005


class GroupNumber(IntEnum):
    """IANA's numbers, for GROUP_DESCRIPTION of both phases (RFC 2409 §6, 3526, 5114, 5903;
    31, of IKEv2, is strongSwan's use)."""

    MODP_768 = 1
    MODP_1024 = 2
    EC2N_155 = 3
    EC2N_185 = 4
    MODP_1536 = 5
    MODP_2048 = 14
    MODP_3072 = 15
    MODP_4096 = 16
    MODP_6144 = 17
    MODP_8192 = 18
    ECP_256 = 19
    ECP_384 = 20
    ECP_521 = 21
    MODP_1024_S160 = 22
    MODP_2048_S224 = 23
    MODP_2048_S256 = 24
    ECP_192 = 25
    ECP_224 = 26
    CURVE_25519 = 31


class GroupType(IntEnum):
    MODP = 1
    ECP = 2
    EC2N = 3


class LifeType(IntEnum):
    """The same numbers in both phases."""

    SECONDS = 1
    KILOBYTES = 2


# ---- RFC 2407: phase 2
class IsakmpTransform(IntEnum):
    """RFC 2407 §4.4.2."""

    KEY_IKE = 1


class AhTransform(IntEnum):
    """RFC 2407 §4.4.3 and IANA."""

    MD5 = 2
    SHA = 3
    DES = 4
    SHA2_256 = 5
    SHA2_384 = 6
    SHA2_512 = 7
    RIPEMD = 8
    AES_XCBC_MAC = 9
    RSA = 10
    AES_128_GMAC = 11
    AES_192_GMAC = 12
    AES_256_GMAC = 13


class EspTransform(IntEnum):
    """RFC 2407 §4.4.4 and IANA. AES needs KEY_LENGTH (bits, without the salt of counter modes) beside it."""

    DES_IV64 = 1
    DES = 2
    TRIPLE_DES = 3
    RC5 = 4
    IDEA = 5
    CAST = 6
    BLOWFISH = 7
    TRIPLE_IDEA = 8
    DES_IV32 = 9
    RC4 = 10
    NULL = 11
    AES_CBC = 12
    AES_CTR = 13
    AES_CCM_8 = 14
    AES_CCM_12 = 15
    AES_CCM_16 = 16
    AES_GCM_8 = 18
    AES_GCM_12 = 19
    AES_GCM_16 = 20
    SEED_CBC = 21
    CAMELLIA_CBC = 22
    NULL_AUTH_AES_GMAC = 23


class IpcompTransform(IntEnum):
    """RFC 2407 §4.4.5."""

    OUI = 1
    DEFLATE = 2
    LZS = 3
    LZJH = 4


class IpsecAttribute(IntEnum):
    """SA attributes of quick mode (RFC 2407 §4.5 and IANA)."""

    SA_LIFE_TYPE = 1
    SA_LIFE_DURATION = 2
    GROUP_DESCRIPTION = 3
    ENCAPSULATION_MODE = 4
    AUTHENTICATION_ALGORITHM = 5
    KEY_LENGTH = 6
    KEY_ROUNDS = 7
    COMPRESS_DICTIONARY_SIZE = 8
    COMPRESS_PRIVATE_ALGORITHM = 9
    ECN_TUNNEL = 10
    EXTENDED_SEQUENCE_NUMBER = 11
    AUTHENTICATION_KEY_LENGTH = 12
    SIGNATURE_ENCODING_ALGORITHM = 13


class EncapsulationMode(IntEnum):
    """RFC 2407 §4.5, RFC 3947 §5.1; the last two are those of the NAT-T drafts."""

    TUNNEL = 1
    TRANSPORT = 2
    UDP_TUNNEL = 3
    UDP_TRANSPORT = 4
    UDP_TUNNEL_DRAFT = 61443
    UDP_TRANSPORT_DRAFT = 61444


class AuthenticationAlgorithm(IntEnum):
    """Integrity algorithms of ESP and AH in phase 2 (RFC 2407 §4.5 and IANA)."""

    HMAC_MD5 = 1
    HMAC_SHA = 2
    DES_MAC = 3
    KPDK = 4
    HMAC_SHA2_256 = 5
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7
    HMAC_RIPEMD = 8
    AES_XCBC_MAC = 9
    SIGNATURE_RSA = 10
    AES_128_GMAC = 11
    AES_192_GMAC = 12
    AES_256_GMAC = 13

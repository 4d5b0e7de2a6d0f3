"""Keys in the words of Wireshark's tables (“ESP SAs” and “IKEv1 Decryption Table”), and in our own.

Left out of Wireshark's: AH, which hides nothing, and ciphers that Wireshark's ESP does not decrypt (AES-CCM,
ChaCha20-Poly1305 before 4.2, GMAC hides nothing either)."""

from stockade.agent import messages
from stockade.ike.contract import ExportedKeys
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Encryption, Hash

_ENCRYPTION = {
    Encryption.NULL: "NULL",
    Encryption.DES_CBC: "DES-CBC [RFC2405]",
    Encryption.TRIPLE_DES_CBC: "TripleDES-CBC [RFC2451]",
    Encryption.AES_CBC_128: "AES-CBC [RFC3602]",
    Encryption.AES_CBC_192: "AES-CBC [RFC3602]",
    Encryption.AES_CBC_256: "AES-CBC [RFC3602]",
    Encryption.AES_GCM_128: "AES-GCM with 16 octet ICV [RFC4106]",
    Encryption.AES_GCM_192: "AES-GCM with 16 octet ICV [RFC4106]",
    Encryption.AES_GCM_256: "AES-GCM with 16 octet ICV [RFC4106]",
}
_AUTHENTICATION = {
    Hash.MD5: "HMAC-MD5-96 [RFC2403]",
    Hash.SHA1: "HMAC-SHA-1-96 [RFC2404]",
    Hash.SHA_256: "HMAC-SHA-256-128 [RFC4868]",
    Hash.SHA_384: "HMAC-SHA-384-192 [RFC4868]",
    Hash.SHA_512: "HMAC-SHA-512-256 [RFC4868]",
}


def keys_message(keys: ExportedKeys) -> messages.CaptureKeys:
    rows = [_row(sa) for sa in keys.sas if sa.esp is not None]
    found = [row for row in rows if row is not None]
    return messages.CaptureKeys(
        esp=found,
        ike=[
            messages.IkeKeys(initiator_cookie=cookie.hex(), key=key.reveal().hex())
            for cookie, key in keys.main_modes
        ],
        left_out=len(rows) - len(found),
        sas=[_sa(sa) for sa in keys.sas],
    )


def _sa(sa: SecurityAssociation) -> messages.SaKeys:
    integrity = sa.ah if sa.esp is None else sa.esp.integrity
    return messages.SaKeys(
        protocol="ah" if sa.esp is None else "esp",
        spi=f"{sa.spi:#010x}",
        source=str(sa.source),
        destination=str(sa.destination),
        mode=sa.mode.value,
        encryption="" if sa.esp is None else sa.esp.encryption.value,
        encryption_key=sa.encryption_key.reveal().hex(),
        integrity="" if integrity is None else integrity.value,
        integrity_key=sa.integrity_key.reveal().hex(),
        extended_sequence=sa.extended_sequence,
    )


def _row(sa: SecurityAssociation) -> messages.EspKeys | None:
    assert sa.esp is not None
    encryption, integrity = sa.esp.encryption, sa.esp.integrity
    if encryption not in _ENCRYPTION or (integrity is not None and integrity not in _AUTHENTICATION):
        return None
    return messages.EspKeys(
        protocol="IPv4" if sa.source.version == 4 else "IPv6",
        source=str(sa.source),
        destination=str(sa.destination),
        spi=f"{sa.spi:#010x}",
        encryption=_ENCRYPTION[encryption],
        encryption_key=_hexadecimal(sa.encryption_key.reveal()),
        authentication="NULL" if integrity is None else _AUTHENTICATION[integrity],
        extended_sequence=sa.extended_sequence,
        authentication_key="" if integrity is None else _hexadecimal(sa.integrity_key.reveal()),
    )


def _hexadecimal(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""

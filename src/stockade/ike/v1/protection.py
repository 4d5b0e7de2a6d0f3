"""Encryption of IKEv1 messages (RFC 2409 Appendix B): CBC over everything after the ISAKMP header.

The IV of an exchange's first encrypted message is derived; each later one is the last ciphertext block of the
message before, whichever end sent it. So the IV may move only when a message has been *accepted*: forged
bytes must not put us out of step with the peer. `open` therefore changes nothing, and `accept` moves the
IV."""

from stockade.crypto.ikev1_keys import phase2_iv
from stockade.crypto.packet import Cbc, cbc
from stockade.crypto.registry import encryption_algorithm
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash


class MessageCipher:
    """The cipher of one main mode, and of the quick modes under it. To begin with a key costs the library far
    more than a message does, so it is begun once for a handshake, and given up (`rest`) when that is over."""

    __slots__ = ("_cbc", "_encryption", "_key")

    def __init__(self, encryption: Encryption, key: Secret) -> None:
        self._encryption = encryption
        self._key = key
        self._cbc: Cbc | None = None

    @property
    def running(self) -> Cbc:
        if self._cbc is None:
            self._cbc = cbc(self._encryption, self._key)
        return self._cbc

    def rest(self) -> None:
        """Nothing is expected for a while: keep the key alone."""
        self._cbc = None


class MessageProtection:
    """The cipher and the moving IV of one exchange."""

    __slots__ = ("_block_size", "cipher", "first_block", "last_block", "sent_block")

    def __init__(
        self, encryption: Encryption, key: Secret, iv: bytes, cipher: MessageCipher | None = None
    ) -> None:
        """`cipher`: one for this key that is there already."""
        self.cipher = MessageCipher(encryption, key) if cipher is None else cipher
        self._block_size = encryption_algorithm(encryption).block_size
        self.first_block = iv
        self.last_block = iv
        """The IV of the next message. At the end of main mode: what phase 2 IVs are derived from."""
        self.sent_block = iv
        """The last block of what this end sent last; the first IV before that."""

    def seal(self, body: bytes) -> bytes:
        """Pad with zeros to whole blocks (RFC 2409 §5, Appendix B) and encrypt; moves the IV."""
        padded = body + bytes(-len(body) % self._block_size)
        sealed = self.cipher.running.encrypt(self.last_block, padded)
        self.accept(sealed)
        self.sent_block = self.last_block
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Decrypt a received message; `PeerError` DECRYPTION_FAILED unless it is whole blocks."""
        if not sealed or len(sealed) % self._block_size:
            raise error_for(
                ReasonCode.DECRYPTION_FAILED,
                "the encrypted part is not whole cipher blocks",
                length=len(sealed),
                block_size=self._block_size,
            )
        return self.cipher.running.decrypt(self.last_block, sealed)

    def block_of(self, sealed: bytes) -> bytes:
        """The last ciphertext block of a message."""
        return sealed[-self._block_size :]

    def accept(self, sealed: bytes) -> None:
        """The message was genuine: its last block is the next IV."""
        self.last_block = self.block_of(sealed)


def phase_2_protection(
    encryption: Encryption,
    hash_name: Hash,
    key: Secret,
    last_main_mode_block: bytes,
    message_id: int,
    cipher: MessageCipher | None = None,
) -> MessageProtection:
    """The protection of a quick mode or informational exchange, whose IV depends on its message id. `cipher`
    is that of its main mode."""
    iv = phase2_iv(hash_name, encryption, last_main_mode_block, message_id.to_bytes(4, "big"))
    return MessageProtection(encryption, key, iv, cipher)

"""Numbers in `ipsecData` ⇄ algorithms, in one place ([MS-GPIPSEC] §2.2.1.2, §2.2.1.3).

One table is doubtful: the ESP cipher. The specification prints 1 = null, 2 = DES, 3 = 3DES; what Windows
shows for the predefined policies, and main mode's own numbers, say 0 = none, 1 = DES, 3 = 3DES. The second
reading is the default; with it an import can only turn out stronger than what was meant. `EspNumbers`
switches."""

from enum import StrEnum

from stockade.model.suites import Encryption, Group, Hash, MainModeProposal
from stockade.store.formats.ipsec_data.isakmp import GROUP_2048


class EspNumbers(StrEnum):
    """How ESP cipher 1 is read and null is written."""

    WINDOWS = "windows"
    SPECIFICATION = "specification"


_ESP_CIPHERS = {
    EspNumbers.WINDOWS: {
        0: Encryption.NULL,
        1: Encryption.DES_CBC,
        2: Encryption.DES_CBC,
        3: Encryption.TRIPLE_DES_CBC,
    },
    EspNumbers.SPECIFICATION: {
        1: Encryption.NULL,
        2: Encryption.DES_CBC,
        3: Encryption.TRIPLE_DES_CBC,
    },
}
_ESP_CIPHER_NUMBERS = {
    EspNumbers.WINDOWS: {
        Encryption.NULL: 0,
        Encryption.DES_CBC: 1,
        Encryption.TRIPLE_DES_CBC: 3,
    },
    EspNumbers.SPECIFICATION: {
        Encryption.NULL: 1,
        Encryption.DES_CBC: 2,
        Encryption.TRIPLE_DES_CBC: 3,
    },
}
ESP_CIPHER_IN_DOUBT = 1


def esp_cipher(number: int, reading: EspNumbers) -> Encryption | None:
    return _ESP_CIPHERS[reading].get(number)


def esp_cipher_number(cipher: Encryption, reading: EspNumbers) -> int | None:
    return _ESP_CIPHER_NUMBERS[reading].get(cipher)


HASHES = {1: Hash.MD5, 2: Hash.SHA1}
HASH_NUMBERS = {hash_: number for number, hash_ in HASHES.items()}

MAIN_MODE_CIPHERS = {1: Encryption.DES_CBC, 2: Encryption.TRIPLE_DES_CBC, 3: Encryption.TRIPLE_DES_CBC}
MAIN_MODE_CIPHER_NUMBERS = {Encryption.DES_CBC: 1, Encryption.TRIPLE_DES_CBC: 3}

GROUPS = {1: Group.MODP_768, 2: Group.MODP_1024, GROUP_2048: Group.MODP_2048}
GROUP_NUMBERS = {group: number for number, group in GROUPS.items()}

# New-DH-1..4, and the random function of a method: offers with the group of 2048 bits
NEW_GROUP_OFFERS = {
    1: MainModeProposal(Encryption.DES_CBC, Hash.MD5, Group.MODP_2048),
    2: MainModeProposal(Encryption.DES_CBC, Hash.SHA1, Group.MODP_2048),
    3: MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.MD5, Group.MODP_2048),
    4: MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_2048),
}

"""What our cryptography costs per operation, beside the limit that the same library sets in the same run.

    python benchmarks/crypto.py

Each row: microseconds of ours and of the limit (best of several rounds, taken in turns so that a busy machine
slows both), and ours divided by the limit. About 1 means that our code adds nothing; below 1 that it found a
cheaper way than the plain use of the library. Runs for about ten seconds.
"""

import hmac
import os
import ssl
import time
from collections.abc import Callable

import cryptography
import gmpy2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from stockade.crypto.ikev1_keys import derive_main_mode_keys, keymat
from stockade.crypto.key_exchange import MODP_PRIMES, generate
from stockade.crypto.packet import aead, cbc, mac
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Group, Hash

ROUNDS = 7
ROUND_SECONDS = 0.02
SIZES = (64, 1440)

Operation = Callable[[], object]


def seconds_per_call(operation: Operation, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        operation()
    return (time.perf_counter() - start) / calls


def best_of(*operations: Operation) -> list[float]:
    """Microseconds per call of each operation: the best round, the operations taking turns."""
    calls = [max(1, int(ROUND_SECONDS / max(seconds_per_call(one, 3), 1e-7))) for one in operations]
    best = [float("inf")] * len(operations)
    for _ in range(ROUNDS):
        for index, operation in enumerate(operations):
            best[index] = min(best[index], seconds_per_call(operation, calls[index]))
    return [seconds * 1e6 for seconds in best]


def row(name: str, ours: Operation, limit_name: str, limit: Operation) -> None:
    ours_time, limit_time = best_of(ours, limit)
    print(f"{name:34} {ours_time:9.2f}  {limit_name:36} {limit_time:9.2f}  {ours_time / limit_time:6.2f}")


def packet_rows(size: int) -> None:
    data = os.urandom(size)
    header, iv8, salt, iv16 = os.urandom(8), os.urandom(8), os.urandom(4), os.urandom(16)
    key = os.urandom(16)

    ours_gcm, raw_gcm, nonce = aead(Encryption.AES_GCM_128, key), AESGCM(key), salt + iv8
    sealed = raw_gcm.encrypt(nonce, data, header)
    one_shot = "AESGCM one shot"
    row(
        f"AES-GCM-128 encrypt {size} B",
        lambda: ours_gcm.encrypt(salt + iv8, data, header),
        one_shot,
        lambda: raw_gcm.encrypt(nonce, data, header),
    )
    row(
        f"AES-GCM-128 decrypt {size} B",
        lambda: ours_gcm.decrypt(salt + iv8, sealed, header),
        one_shot,
        lambda: raw_gcm.decrypt(nonce, sealed, header),
    )

    ours_cbc, algorithm, block = cbc(Encryption.AES_CBC_128, key), AES(key), data[: size // 16 * 16]
    packet = ours_cbc.encrypt_packet(iv16 + block)
    new_context = "new library context per packet"
    row(
        f"AES-CBC-128 encrypt_packet {size} B",
        lambda: ours_cbc.encrypt_packet(iv16 + block),
        new_context,
        lambda: Cipher(algorithm, modes.CBC(iv16)).encryptor().update(block),
    )
    row(
        f"AES-CBC-128 encrypt {size} B",
        lambda: ours_cbc.encrypt(iv16, block),
        new_context,
        lambda: Cipher(algorithm, modes.CBC(iv16)).encryptor().update(block),
    )
    row(
        f"AES-CBC-128 decrypt_packet {size} B",
        lambda: ours_cbc.decrypt_packet(packet),
        new_context,
        lambda: Cipher(algorithm, modes.CBC(iv16)).decryptor().update(block),
    )
    ours_3des = cbc(Encryption.TRIPLE_DES_CBC, bytes(range(24)))
    running_aes = Cipher(algorithm, modes.CBC(iv16)).encryptor()
    row(
        f"3DES-CBC encrypt_packet {size} B",
        lambda: ours_3des.encrypt_packet(iv8 + block),
        "AES-CBC-128, one running context",
        lambda: running_aes.update(block),
    )
    for hash_name, openssl in ((Hash.SHA1, "sha1"), (Hash.SHA_256, "sha256")):
        mac_key = os.urandom(20 if hash_name is Hash.SHA1 else 32)
        integrity = mac(hash_name, mac_key)
        row(
            f"HMAC-{hash_name} compute {size} B",
            lambda integrity=integrity: integrity.compute(header, data),
            "hmac.digest one shot",
            lambda mac_key=mac_key, openssl=openssl: hmac.digest(mac_key, data, openssl),
        )


def exchange_rows() -> None:
    for group, prime in MODP_PRIMES.items():
        ours, peer = generate(group, os.urandom), generate(group, os.urandom).public
        value, exponent = int.from_bytes(peer), int.from_bytes(os.urandom(40)) | 1 << 319
        full, wide = gmpy2.mpz(prime), int.from_bytes(os.urandom(len(peer))) % prime
        row(
            f"{group} generate",
            lambda group=group: generate(group, os.urandom),
            "gmpy2.powmod_sec 320 bits",
            lambda value=value, full=full, exponent=exponent: gmpy2.powmod_sec(value, exponent, full),
        )
        row(
            f"{group} shared",
            lambda ours=ours, peer=peer: ours.shared(peer),
            "pow(), 320-bit exponent",
            lambda value=value, prime=prime, exponent=exponent: pow(value, exponent, prime),
        )
        row(
            f"{group} shared",
            lambda ours=ours, peer=peer: ours.shared(peer),
            "powmod_sec, full-length exponent",
            lambda value=value, full=full, wide=wide: gmpy2.powmod_sec(value, wide, full),
        )
    for group, curve in ((Group.ECP_256, ec.SECP256R1()), (Group.ECP_384, ec.SECP384R1())):
        ours, peer = generate(group, os.urandom), generate(group, os.urandom).public
        raw_key, raw_peer = ec.generate_private_key(curve), ec.generate_private_key(curve).public_key()
        row(
            f"{group} generate",
            lambda group=group: generate(group, os.urandom),
            "ec.generate_private_key",
            lambda curve=curve: ec.generate_private_key(curve),
        )
        row(
            f"{group} shared",
            lambda ours=ours, peer=peer: ours.shared(peer),
            "exchange, peer decoded before",
            lambda raw_key=raw_key, raw_peer=raw_peer: raw_key.exchange(ec.ECDH(), raw_peer),
        )


def derivation_rows() -> None:
    skeyid, shared, cookie, nonce = Secret(bytes(32)), Secret(bytes(256)), bytes(8), bytes(32)
    message = bytes(320)
    one = "1 x hmac.digest 320 B"

    def limit() -> bytes:
        return hmac.digest(bytes(32), message, "sha256")

    row(
        "main-mode keys, SHA-256, AES-256",
        lambda: derive_main_mode_keys(Hash.SHA_256, Encryption.AES_CBC_256, skeyid, shared, cookie, cookie),
        one,
        limit,
    )
    row(
        "KEYMAT 52 B with PFS, SHA-256",
        lambda: keymat(Hash.SHA_256, skeyid, 3, bytes(4), nonce, nonce, shared, 52),
        one,
        limit,
    )


def main() -> None:
    print(
        f"cryptography {cryptography.__version__}, gmpy2 {gmpy2.version()}, hashlib on {ssl.OPENSSL_VERSION};"
        f" microseconds per call, best of {ROUNDS} rounds"
    )
    print(f"{'operation':34} {'ours':>9}  {'limit':36} {'limit':>9}  {'ratio':>6}")
    for size in SIZES:
        packet_rows(size)
    exchange_rows()
    derivation_rows()


if __name__ == "__main__":
    main()

"""An independent judge of IKEv1's key derivation: `cavp`, which libreswan ships for NIST's validation of
algorithms (CAVP, ACVP), computes SKEYID and the keys under it from the same inputs."""

import json
import os
import random
import subprocess
from pathlib import Path

import libreswan_node
import pytest

from stockade.crypto.ikev1_keys import derive_main_mode_keys, preshared_skeyid, signature_skeyid
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash

NAMES = {Hash.SHA1: "SHA-1", Hash.SHA_256: "SHA-256", Hash.SHA_384: "SHA-384", Hash.SHA_512: "SHA-512"}
SHARED_BYTES = (32, 96, 128, 256)
"""Of a secret by Diffie-Hellman: P-256, MODP 768, 1024 and 2048."""


@pytest.fixture(scope="module")
def cavp() -> list[str]:
    root = libreswan_node.build()
    if not isinstance(root, Path):
        pytest.skip(f"there is no libreswan: {root}")
    return ["env", f"LD_LIBRARY_PATH={root / 'lib'}", str(root / "root/usr/libexec/ipsec/cavp"), "-json"]


@pytest.mark.parametrize("by", ["preshared-key", "signature"])
@pytest.mark.parametrize("hash_name", NAMES, ids=str)
def test_the_keys_of_main_mode_are_those_that_the_judge_computes(
    cavp: list[str], hash_name: Hash, by: str
) -> None:
    seed = os.urandom(4).hex()
    print("seed", seed)
    draw = random.Random(seed)
    for size in SHARED_BYTES:
        cookies = draw.randbytes(8), draw.randbytes(8)
        nonces = draw.randbytes(draw.randint(8, 64)), draw.randbytes(draw.randint(8, 64))
        shared, key = draw.randbytes(size), draw.randbytes(draw.randint(8, 64))
        asked = {
            "hashAlg": NAMES[hash_name],
            "tcId": "1",
            "gxy": shared.hex(),
            "nInit": nonces[0].hex(),
            "nResp": nonces[1].hex(),
            "ckyInit": cookies[0].hex(),
            "ckyResp": cookies[1].hex(),
        }
        if by == "signature":
            skeyid = signature_skeyid(hash_name, *nonces, Secret(shared))
        else:
            skeyid = preshared_skeyid(hash_name, Secret(key), *nonces)
            asked["preSharedKey"] = key.hex()
        words = [word for name, value in asked.items() for word in (f"-{name}", value)]
        said = subprocess.run(
            [*cavp, "-v1psk" if by == "preshared-key" else "-v1dsa", *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        judged = json.loads(said.stdout)
        ours = derive_main_mode_keys(hash_name, Encryption.AES_CBC_128, skeyid, Secret(shared), *cookies)
        assert skeyid == Secret(bytes.fromhex(judged["sKeyId"]))
        assert ours.skeyid_d == Secret(bytes.fromhex(judged["sKeyIdD"]))
        assert ours.skeyid_a == Secret(bytes.fromhex(judged["sKeyIdA"]))
        assert ours.skeyid_e == Secret(bytes.fromhex(judged["sKeyIdE"]))

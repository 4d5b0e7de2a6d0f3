"""Every combination of authentication, suite, perfect forward secrecy, mode and NAT: 64 cases of four trials.

A run has those of `CHOSEN`, which with the cases of their own in `interop_cases` bring every two of these
values together; with `EVERY` in the environment it has all."""

import os
from itertools import product
from typing import Protocol, TypeVar

EVERY = "STOCKADE_EVERY_COMBINATION"

SUITES = {
    "3des-sha1-modp1024": ("3DES-SHA1-2", "ESP[3DES,SHA1]", "3des-sha1", "3des-sha1;modp1024", "3des-sha1"),
    "aes128-sha1-modp2048": (
        "AES128-SHA1-3",
        "ESP[AES128,SHA1]",
        "aes128-sha1",
        "aes128-sha1;modp2048",
        "aes128-sha1",
    ),
    "aes256-sha256-ecp256": (
        "AES256-SHA256-ECP256",
        "ESP[AES256,SHA256]",
        "aes256-sha256",
        "aes256-sha2_256;dh19",
        "aes256-sha2_256",
    ),
    "aes-gcm-128": (
        "AES256-SHA256-ECP256",
        "ESP[AESGCM128,None]",
        "aes128gcm16",
        "aes256-sha2_256;dh19",
        "aes_gcm128",
    ),
}
"""netsh's words for both modes, strongSwan's for ESP, libreswan's for both. strongSwan's for main mode are
the name, but for AES-GCM."""
CHOSEN = (
    "rsa-3des-sha1-modp1024-pfs-tunnel-nat",
    "rsa-aes128-sha1-modp2048-tunnel-nat",
    "rsa-aes256-sha256-ecp256-pfs-transport-nat",
)

Made = TypeVar("Made", covariant=True)


class CaseType(Protocol[Made]):
    """`interop_cases.Case`."""

    def __call__(
        self,
        name: str,
        main_mode: str,
        quick_mode: str,
        ike: str,
        esp: str,
        libreswan_ike: str,
        libreswan_esp: str,
        group: str,
        *,
        authentication: str,
        cannot: dict[str, str],
        tunnel: bool,
        nat: bool,
    ) -> Made: ...


def combinations(make: CaseType[Made], cannot: dict[str, dict[str, str]]) -> tuple[Made, ...]:
    """`cannot`: by suite, which peers are not able to do it, and why."""
    made = []
    for authentication, suite, secrecy, mode, nat in product(
        ("psk", "rsa"), SUITES, ("", "pfs"), ("transport", "tunnel"), ("", "nat")
    ):
        name = "-".join(filter(None, (authentication, suite, secrecy, mode, nat)))
        if name not in CHOSEN and EVERY not in os.environ:
            continue
        main, quick, esp, libreswan_ike, libreswan_esp = SUITES[suite]
        ike = suite if "gcm" not in suite else "aes256-sha256-ecp256"
        made.append(
            make(
                name,
                main,
                quick,
                ike,
                esp,
                libreswan_ike,
                libreswan_esp,
                ike.rpartition("-")[2] if secrecy else "",
                authentication=authentication,
                cannot=cannot.get(suite, {}),
                tunnel=mode == "tunnel",
                nat=bool(nat),
            )
        )
    return tuple(made)

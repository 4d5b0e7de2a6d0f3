"""The groups in a ticket: a PAC that Samba made, and ones that nobody should believe."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.pac import read_logon_info, sid_text

REAL = (Path(__file__).parents[2] / "data" / "kerberos" / "samba-logon-info.bin").read_bytes()
DOMAIN = "S-1-5-21-1650141957-1237724389-2522867325"


def refused(data: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        read_logon_info(data)
    assert caught.value.reason.code is ReasonCode.KERBEROS_REFUSED
    return str(caught.value.reason)


def test_a_computers_ticket_of_a_real_domain():
    found = read_logon_info(REAL)
    assert found.domain == DOMAIN
    assert found.user == f"{DOMAIN}-1103"
    assert found.groups == (f"{DOMAIN}-515", "S-1-18-1")


def made(ids=(515, 1105), extra=("01020000000000052000000021020000",), resource=(1200,)) -> bytes:
    """A PAC with all parts that real ones have in a forest."""
    sid = struct.pack("<IBB6s4I", 4, 1, 4, (5).to_bytes(6, "big"), 21, 1, 2, 3)
    body = bytes(48) + bytes(48) + bytes(4) + struct.pack("<IIII", 1000, 515, len(ids), 1)
    body += bytes(20) + bytes(16) + struct.pack("<I", 1) + bytes(40)
    body += struct.pack("<II", len(extra), 1) + struct.pack("<III", 1 if resource else 0, len(resource), 1)
    body += struct.pack("<I", len(ids)) + b"".join(struct.pack("<II", one, 7) for one in ids) + sid
    body += struct.pack("<I", len(extra)) + struct.pack("<II", 1, 7) * len(extra)
    body += b"".join(struct.pack("<I", 2) + bytes.fromhex(one) for one in extra)
    if resource:
        body += sid
    body += struct.pack("<I", len(resource)) + b"".join(struct.pack("<II", one, 7) for one in resource)
    body = struct.pack("<I", 1) + body
    return bytes.fromhex("01100800cccccccc") + struct.pack("<II", len(body), 0) + body


def test_groups_of_other_domains_and_of_the_servers_domain_count_as_well():
    assert read_logon_info(made()).groups == (
        "S-1-5-21-1-2-3-515",
        "S-1-5-21-1-2-3-1105",
        "S-1-5-32-545",
        "S-1-5-21-1-2-3-1200",
    )


def test_what_contradicts_itself_is_refused():
    assert "header" in refused(b"")
    assert "NDR header" in refused(b"\x02" + REAL[1:])
    assert "announced" in refused(REAL[:-1])
    assert "announced" in refused(
        made(resource=()).replace(struct.pack("<I", 0), struct.pack("<I", 9), 1)[:60]
    )
    place = REAL.index(struct.pack("<III", 515, 1, 0x2001C)) + 4
    assert "at most" in refused(REAL[:place] + struct.pack("<I", 1 << 31) + REAL[place + 4 :])
    assert "announced" in refused(REAL[:place] + struct.pack("<I", 3) + REAL[place + 4 :])
    with pytest.raises(ValueError, match="SID"):
        sid_text(b"\x01\x01" + bytes(9))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_give_groups_or_a_refusal(data):
    content = bytearray(data.draw(st.sampled_from([REAL, made()])))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    for one in (bytes(content), data.draw(st.binary(max_size=80))):
        try:
            found = read_logon_info(one)
        except PeerError:
            continue
        assert len(found.groups) < 5000

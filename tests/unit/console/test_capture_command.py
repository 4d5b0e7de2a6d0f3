"""`stockade capture`: which packets, cut as they were on the wire, into a file that is read back."""

import os
import struct
from ipaddress import ip_address

import pytest
from scapy.all import IP, UDP, IPv6, Raw

from stockade.agent.capture_keys import keys_message
from stockade.agent.paths import Paths
from stockade.console.capture_command import CLEAR, WIRE, WiresharkFolder, datagrams, run_capture, sort_out
from stockade.console.main import main
from stockade.driver.userspace.system import DEVICE
from stockade.ike.contract import ExportedKeys
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import ReasonCode, StockadeError
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector
from stockade.wire.pcap import LinkType, pcapng_interface, pcapng_record, pcapng_section, read_capture

ALPHA, BETA = "10.0.0.1", "10.0.0.2"
SELECTOR = TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA))
IKE = bytes(IP(src=ALPHA, dst=BETA) / UDP(sport=500, dport=500) / Raw(b"x" * 40))
ESP = bytes(IP(src=ALPHA, dst=BETA, proto=50) / Raw(b"x" * 40))
WEB = bytes(IP(src=ALPHA, dst=BETA) / UDP(sport=5000, dport=53) / Raw(b"x" * 40))


@pytest.mark.parametrize(
    ("device", "packet", "interface"),
    [("eth0", IKE, WIRE), ("eth0", ESP, WIRE), (DEVICE, WEB, CLEAR), ("eth0", WEB, None)],
)
def test_what_is_of_ipsec_is_kept(device, packet, interface):
    found = [seen.interface for seen in sort_out(device, packet, True, None)]
    assert found == ([] if interface is None else [interface])


def test_other_peers_and_what_is_no_ip_are_left_out():
    assert list(sort_out("eth0", ESP, True, ip_address("10.0.0.2")))
    assert not list(sort_out("eth0", ESP, True, ip_address("10.0.0.9")))
    for rubbish in (b"", b"\x45", b"\0\x01\x08\0", os.urandom(8)):
        assert not list(sort_out(DEVICE, rubbish[:7], True, None))


@pytest.mark.parametrize("head", [IP(src=ALPHA, dst=BETA, id=65535), IPv6(src="fe80::1", dst="fe80::2")])
def test_what_the_kernel_cuts_is_written_as_it_is_on_the_wire(head):
    payload = bytes(range(250)) * 2
    packet = bytes(head / UDP(sport=9, dport=4501) / Raw(payload))
    parts = [type(head)(part) for part in datagrams(packet, 200)]
    assert [bytes(part[Raw]) for part in parts] == [payload[:200], payload[200:400], payload[400:]]
    assert [part[UDP].len for part in parts] == [208, 208, 108]
    for part in parts:
        assert (part[UDP].sport, part.src) == (9, head.src)
        rebuilt = part.copy()
        if isinstance(head, IP):
            del rebuilt.chksum, rebuilt.len
            assert bytes(rebuilt) == bytes(part), "lengths and checksum are right"
        else:
            assert part.plen == len(bytes(part)) - 40
    assert datagrams(packet, 0) == [packet]
    assert datagrams(ESP, 10) == [ESP]


def test_the_file_is_read_back():
    data = pcapng_section("how to decrypt", "stockade 1") + pcapng_interface(LinkType.RAW, "wire", "w")
    data += pcapng_interface(LinkType.RAW, "clear", "c")
    data += pcapng_record(5, ESP, None, 0, True) + pcapng_record(6, WEB[:-1], None, 1, False)
    found = list(read_capture(data))
    assert [(one.timestamp, one.data, one.interface) for one in found] == [(5, ESP, 0), (6, WEB[:-1], 1)]
    flags = struct.pack("<HHI", 2, 4, 2)
    assert flags in data


def sa(encryption, integrity, direction=Direction.OUTBOUND):
    source, destination = ip_address(ALPHA), ip_address(BETA)
    return SecurityAssociation(
        spi=0x1001,
        direction=direction,
        source=source,
        destination=destination,
        selector=SELECTOR,
        mode=Mode.TRANSPORT,
        esp=EspSuite(encryption, integrity),
        ah=None,
        encryption_key=Secret(b"\x11" * 16),
        integrity_key=Secret(b"\x22" * 20),
        pair=0x1002,
        negotiation="n",
        filter_id="f",
        main_mode="a:b",
    )


def test_keys_are_written_as_wireshark_reads_them(tmp_path):
    keys = ExportedKeys(
        ((b"\1" * 8, Secret(b"\2" * 16)),),
        (sa(Encryption.AES_CBC_128, Hash.SHA1), sa(Encryption.AES_CCM_128, None)),
    )
    message = keys_message(keys)
    assert message.left_out == 1
    folder = WiresharkFolder(tmp_path / "t.wireshark")
    asked = {
        "esp": [{name: getattr(row, name) for name in row.__struct_fields__} for row in message.esp],
        "ike": [{"initiator_cookie": row.initiator_cookie, "key": row.key} for row in message.ike],
    }
    folder.add(asked)
    folder.add(asked)
    (line,) = (tmp_path / "t.wireshark" / "esp_sa").read_text().splitlines()
    assert line == (
        f'"IPv4","{ALPHA}","{BETA}","0x00001001","AES-CBC [RFC3602]","0x{"11" * 16}",'
        f'"HMAC-SHA-1-96 [RFC2404]","0x{"22" * 20}","32-bit","0x00000000"'
    )
    ike = (tmp_path / "t.wireshark" / "ikev1_decryption_table").read_text()
    assert ike == f"{'01' * 8},{'02' * 16}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="a packet socket needs root")
def test_nothing_is_overwritten(tmp_path):
    file = tmp_path / "there.pcapng"
    file.write_text("mine")
    with pytest.raises(StockadeError) as refused:
        run_capture(Paths.of(tmp_path), file, seconds=0.0, count=None, peer=None, keys=False)
    assert refused.value.reason.code is ReasonCode.NAME_EXISTS
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="a packet socket needs root")
def test_keys_without_an_agent_are_refused_and_no_capture_is_left(tmp_path, capsys):
    file = tmp_path / "x.pcapng"
    assert main(["--home", str(tmp_path), "capture", "--keys", "--seconds", "0", str(file)]) == 1
    assert "stockade agent run" in capsys.readouterr().err
    assert not file.exists()


def test_a_peer_that_is_no_address_is_refused(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "capture", "--peer", "everybody", str(tmp_path / "x")]) == 1
    assert "everybody" in capsys.readouterr().err

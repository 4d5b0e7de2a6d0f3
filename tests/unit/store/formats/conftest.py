"""Policies, files and writers that the tests of `store.formats` share."""

import sys
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from uuid import UUID

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    AddressKind,
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)
from stockade.store.formats.ldif import read_ldif
from stockade.store.formats.objects import ObjectSet

sys.path.insert(0, str(Path(__file__).parent))  # for hive_writer

DATA = Path(__file__).parents[3] / "data"
CHANGED = datetime(2004, 2, 29, 12, 0, 1, tzinfo=UTC)


def guid(number: int) -> UUID:
    return UUID(int=0x7238_5230_70FA_11D1_864C_14A3_0000_0000 + number)


@pytest.fixture(scope="session")
def samba_ldif() -> bytes:
    """The default IPsec objects of a directory, made by Samba's provision: real blobs of Windows 2000."""
    return (DATA / "samba-ipsec-objects.ldif").read_bytes()


@pytest.fixture(scope="session")
def samba_objects(samba_ldif: bytes) -> ObjectSet:
    return read_ldif(samba_ldif.decode())


@pytest.fixture(scope="session")
def office() -> PolicySet:
    """A policy set with something of everything that the Windows form can say."""
    me, everyone = FilterAddress.me(), FilterAddress.any()
    network = FilterAddress.of(AddressRange.network("10.1.0.0/16"))
    lists = (
        FilterList(
            "Web",
            (
                Filter(me, everyone, 6, 0, 443, True, "secure web"),
                Filter(network, me, 17, 53, 0, False),
                Filter(me, FilterAddress.of(IPv4Address("192.0.2.9"))),
            ),
            "what the web needs",
            guid(1),
            CHANGED,
        ),
        FilterList(
            "New things",
            (
                Filter(me, FilterAddress.server(AddressKind.DNS), 17, 0, 53),
                Filter(FilterAddress.server(AddressKind.GATEWAY), me),
                Filter(me, FilterAddress.named("files.example.com"), 6, 0, 445),
                # from here on the second generation: a blob has those behind the first
                Filter(me, FilterAddress.of(AddressRange(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.6")))),
                Filter(me, FilterAddress.of(AddressRange.network("2001:db8::/32")), 58),
                Filter(
                    FilterAddress.of(IPv6Address("2001:db8::1")), FilterAddress.of(IPv6Address("2001:db8::2"))
                ),
            ),
            "",
            guid(2),
            CHANGED,
        ),
    )
    actions = (
        FilterAction("Permit", Action.PERMIT, (), guid=guid(3), modified=CHANGED),
        FilterAction("Block", Action.BLOCK, (), description="nothing passes", guid=guid(4), modified=CHANGED),
        FilterAction(
            "Secure",
            Action.NEGOTIATE,
            (
                QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1), None, 900, 50_000),
                QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1)),
                QuickModeProposal(EspSuite(Encryption.DES_CBC, None), Hash.MD5),
            ),
            True,
            True,
            True,
            guid=guid(5),
            modified=CHANGED,
        ),
    )
    rules = (
        Rule(
            "Web rule",
            "Web",
            "Secure",
            (
                Kerberos(),
                Certificate("C=US, O=Example, CN=Example Root", True, False),
                Certificate("CN=Other", False, True),
                PresharedKey(Secret("geheim-ß".encode())),
            ),
            IPv4Address("192.0.2.77"),
            ConnectionType.LAN,
            True,
            "the rule of the web",
            guid(6),
            CHANGED,
        ),
        Rule(
            "Shut",
            "New things",
            "Block",
            (Kerberos(),),
            None,
            ConnectionType.DIALUP,
            False,
            "",
            guid(7),
            CHANGED,
        ),
        Rule(
            "Six",
            "New things",
            "Permit",
            (Kerberos(),),
            IPv6Address("2001:db8::77"),
            guid=guid(8),
            modified=CHANGED,
        ),
        Rule(
            "",
            DYNAMIC_FILTER_LIST,
            DEFAULT_RESPONSE_ACTION,
            (Kerberos(),),
            None,
            ConnectionType.ALL,
            False,
            "",
            guid(9),
            CHANGED,
            True,
            (QuickModeProposal(ah=Hash.SHA1),),
            True,
        ),
    )
    policy = Policy(
        "Office “β”",
        rules,
        True,
        (
            MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_2048),
            MainModeProposal(Encryption.DES_CBC, Hash.MD5, Group.MODP_768),
        ),
        60,
        1,
        True,
        30,
        "everything at once",
        guid(10),
        CHANGED,
    )
    spare = Policy("Spare", (), guid=guid(11), modified=CHANGED)
    return PolicySet((policy, spare), lists, actions, "local")

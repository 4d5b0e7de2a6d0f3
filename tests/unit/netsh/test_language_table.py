"""The whole language, as Microsoft's reference lists it: every command and every tag, in the order in which
values without tags are read. A command or tag that is missing here shows as itself."""

import pytest

from stockade.netsh.commands import TREE
from stockade.netsh.grammar import Command, find

FILTER = "srcaddr dstaddr"
ENDS = "srcmask dstmask srcport dstport"
AUTH = "kerberos psk rootca"

STATIC = {
    "add filter": f"filterlist {FILTER} description protocol mirrored {ENDS}",
    "add filteraction": "name description qmpfs inpass soft action qmsecmethods",
    "add filterlist": "name description",
    "add policy": "name description mmpfs qmpermm mmlifetime activatedefaultrule pollinginterval assign"
    " mmsecmethods",
    "add rule": f"name policy filterlist filteraction tunnel conntype activate description {AUTH}",
    "delete all": "",
    "delete filter": f"filterlist {FILTER} protocol {ENDS} mirrored",
    "delete filteraction": "name",
    "delete filterlist": "name",
    "delete policy": "name",
    "delete rule": "name id policy",
    "exportpolicy": "file",
    "importpolicy": "file",
    "restorepolicyexamples": "release",
    "set batch": "mode",
    "set defaultrule": f"policy qmpfs activate qmsecmethods {AUTH}",
    "set filteraction": "name guid newname description qmpfs inpass soft action qmsecmethods",
    "set filterlist": "name guid newname description",
    "set interactive": "mode",
    "set policy": "name guid newname description mmpfs qmpermm mmlifetime activatedefaultrule"
    " pollinginterval assign gponame mmsecmethods",
    "set rule": "name id policy newname description filterlist filteraction tunnel conntype activate " + AUTH,
    "set store": "location domain",
    "show all": "format wide",
    "show filteraction": "name rule level format wide",
    "show filterlist": "name rule level format resolvedns wide",
    "show gpoassignedpolicy": "name",
    "show policy": "name level format wide",
    "show rule": "name id policy type level format wide",
    "show store": "",
}
DYNAMIC = {
    "add mmpolicy": "name qmpermm mmlifetime softsaexpirationtime mmsecmethods",
    "add qmpolicy": "name soft pfsgroup qmsecmethods",
    "add rule": f"{FILTER} mmpolicy qmpolicy protocol srcport dstport mirrored conntype actioninbound"
    f" actionoutbound srcmask dstmask tunneldstaddress {AUTH}",
    "delete all": "",
    "delete mmpolicy": "name",
    "delete qmpolicy": "name",
    "delete rule": f"{FILTER} protocol srcport dstport mirrored conntype srcmask dstmask tunneldstaddress",
    "set config": "property value",
    "set mmpolicy": "name qmpermm mmlifetime softsaexpirationtime mmsecmethods",
    "set qmpolicy": "name soft pfsgroup qmsecmethods",
    "set rule": f"{FILTER} protocol srcport dstport mirrored conntype srcmask dstmask tunneldstaddress"
    f" mmpolicy qmpolicy actioninbound actionoutbound {AUTH}",
    "show all": "resolvedns",
    "show config": "",
    "show mmfilter": "name type srcaddr dstaddr srcmask dstmask resolvedns",
    "show mmpolicy": "name",
    "show mmsas": "all srcaddr dstaddr format resolvedns",
    "show qmfilter": "name type srcaddr dstaddr srcmask dstmask protocol srcport dstport actioninbound"
    " actionoutbound resolvedns",
    "show qmpolicy": "name",
    "show qmsas": "all srcaddr dstaddr protocol format resolvedns",
    "show rule": "type srcaddr dstaddr srcmask dstmask protocol srcport dstport actioninbound"
    " actionoutbound resolvedns",
    "show stats": "type",
}
PROPERTIES = "ipsecdiagnostics ikelogging strongcrlcheck ipsecloginterval ipsecexempt bootmode bootexemptions"

TABLE = [(("ipsec", "static"), words, tags) for words, tags in STATIC.items()]
TABLE += [(("ipsec", "dynamic"), words, tags) for words, tags in DYNAMIC.items()]


@pytest.mark.parametrize(("context", "words", "tags"), TABLE)
def test_the_command_is_there_with_every_tag_and_a_help(context, words, tags):
    command = find(TREE, (*context, *words.split()))
    assert isinstance(command, Command), words
    assert command.run is not None, f"{words} is not carried out"
    theirs = {parameter.tag for parameter in command.parameters if not parameter.ours}
    assert set(tags.split()) - theirs == set(), "tags that are missing"
    assert theirs - set(tags.split()) == set(), "tags that Windows has not, and that are not marked as ours"
    assert command.help
    assert not command.ours


def test_every_other_command_is_marked_as_ours_or_is_no_part_of_ipsec():
    listed = {(*context, *words.split()) for context, words, _ in TABLE}

    def commands(node):
        for child in node.children.values():
            if isinstance(child, Command):
                yield child
            else:
                yield from commands(child)

    extra = [one for one in commands(find(TREE, ("ipsec",))) if one.path not in listed]
    assert [" ".join(one.path) for one in extra if not one.ours and "dump" not in one.words] == []


def test_every_property_of_the_service_can_be_set():
    command = find(TREE, ("ipsec", "dynamic", "set", "config"))
    assert isinstance(command, Command)
    for name in PROPERTIES.split():
        assert command.parameters[0].kind.parse(name).name == name

@echo off
netsh ipsec dynamic set config property=ipsecexempt value=3
netsh ipsec dynamic set config bootmode stateful
netsh ipsec dynamic set config bootexemptions "tcp:0:3389:inbound udp:0:68:inbound"
netsh ipsec dynamic add mmpolicy name=mm mmsecmethods="3DES-SHA1-2"
netsh ipsec dynamic add qmpolicy name=qm pfsgroup=GRPMM qmsecmethods="ESP[3DES,SHA1]"
netsh ipsec dynamic add rule srcaddr=me dstaddr=10.0.0.2 mmpolicy=mm qmpolicy=qm protocol=TCP dstport=445 psk=key
netsh ipsec dynamic add rule srcaddr=any dstaddr=me mmpolicy=mm protocol=TCP dstport=23 actioninbound=block actionoutbound=block

@echo off
:: Site to site, one rule for each direction
netsh ipsec static add policy name=Tunnel activatedefaultrule=no mmsecmethods="3DES-MD5-2"
netsh ipsec static add filterlist name=Out
netsh ipsec static add filter filterlist=Out srcaddr=172.16.0.0 srcmask=255.255.0.0 dstaddr=192.168.1.0 dstmask=255.255.255.0 mirrored=no
netsh ipsec static add filterlist name=In
netsh ipsec static add filter filterlist=In srcaddr=192.168.1.0 srcmask=24 dstaddr=172.16.0.0 dstmask=16 mirrored=no
netsh ipsec static add filteraction name=Secure qmpfs=yes action=negotiate qmsecmethods="ESP[3DES,MD5]:100000k/3600s AH[SHA1]+ESP[DES,None]"
netsh ipsec static add rule name=Out policy=Tunnel filterlist=Out filteraction=Secure tunnel=203.0.113.2 conntype=lan psk="site key"
netsh ipsec static add rule name=In policy=Tunnel filterlist=In filteraction=Secure tunnel=203.0.113.1 conntype=lan psk="site key"

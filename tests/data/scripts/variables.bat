@ECHO OFF
TITLE Isolation
SET POL=Domain isolation
set FL=Servers of ours
set "PSK=a long key & more"
SET NETSH=netsh ipsec static
%NETSH% add policy name="%POL%" mmsecmethods="3DES-SHA1-3 3DES-SHA1-2" activatedefaultrule=no
%NETSH% add filterlist name="%fl%"
%NETSH% add filter filterlist="%FL%" srcaddr=Me dstaddr=10.1.0.0 dstmask=255.255.0.0 desc="100%% of them"
%NETSH% add filter filterlist="%FL%" srcaddr=Me dstaddr=10.2.0.0 dstmask=16 ^
    protocol=TCP
%NETSH% add filteraction name=Ask inpass=yes soft=yes qmsec="ESP[3DES,SHA1]:100000k/900s" & %NETSH% add filteraction name=Never act=block
%NETSH% add rule name=R policy="%POL%" filterlist="%FL%" filteraction=Ask psk="%PSK%"
%NETSH% set policy name="%POL%" assign=yes || exit /b 1

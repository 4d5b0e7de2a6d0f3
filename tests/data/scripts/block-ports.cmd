@echo off
rem Block the ports that worms like. From an old knowledge base article, more or less.
setlocal
echo Setting up IPSec policy...
netsh ipsec static delete policy name="Packet Filters" > nul 2>&1
netsh ipsec static add policy name="Packet Filters" description="Server Hardening Policy" assign=no
netsh ipsec static add filterlist name="SQL Slammer" description="UDP 1434"
netsh ipsec static add filter filterlist="SQL Slammer" srcaddr=any dstaddr=me description="SQL resolution" protocol=UDP srcport=0 dstport=1434 mirrored=yes
netsh ipsec static add filterlist name="RPC" >nul && echo RPC list made
netsh ipsec static add filter filterlist="RPC" srcaddr=any dstaddr=me protocol=TCP dstport=135 mirrored=yes >nul
netsh ipsec static add filter filterlist="RPC" srcaddr=any dstaddr=me protocol=TCP dstport=139 mirrored=yes >nul
netsh ipsec static add filter filterlist="RPC" srcaddr=any dstaddr=me protocol=TCP dstport=445 mirrored=yes >nul
netsh ipsec static add filteraction name="Block it" action=block
netsh ipsec static add rule name="No Slammer" policy="Packet Filters" filterlist="SQL Slammer" filteraction="Block it" kerberos=yes
netsh ipsec static add rule name="No RPC" policy="Packet Filters" filterlist="RPC" filteraction="Block it" kerberos=yes
netsh ipsec static set policy name="Packet Filters" assign=y
echo.
echo Done, %DATE% %TIME%.
pause
endlocal
exit /b 0

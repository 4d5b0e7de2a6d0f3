@echo off
netsh ipsec static add policy name=P
if errorlevel 1 goto failed
netsh ipsec static set policy name=P assign=yes
goto :eof
:failed
echo failed
exit /b 1

@echo off
net stop policyagent
net start policyagent
netsh ipsec static set policy name=Old assign=n 2>nul
netsh ipsec static delete policy all
netsh ipsec static delete filterlist all
netsh ipsec static delete filteraction all
netsh ipsec static show all | find "Policy" > after.txt
gpupdate /force

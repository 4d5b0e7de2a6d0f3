#!/usr/bin/env bash
# Runs a command as root in a User-Mode-Linux kernel with XFRM (ESP and AH, IPv4 and IPv6), over the host's own files,
# and returns its exit status. No virtual machine: an ordinary process, up in about 3 s.
#   uml-run.sh [-s DIR]... [-i TAP]... [-m MEGABYTES] [-t SECONDS] [-k FILE] [--] COMMAND...
#   -s DIR   shares DIR writable at the same path (repeatable); all else is read-only or a tmpfs
#   -i TAP   its network devices vec0, vec1 ... are these TAP devices of the namespace that this is called in (repeatable)
#   -k FILE  keeps the console there
# Output of COMMAND comes to stdout. Exit status 125: the kernel did not boot or did not finish in time (the end of its
# console goes to stderr). It has no nf_tables for IP, so what needs nft stays outside and is joined to it by TAP devices.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
memory=768 limit=300 console='' shares=() devices=()
while [ $# -gt 0 ]; do
    case $1 in
        -s) shares+=("$(realpath "$2")"); shift 2 ;;
        -i) devices+=("vec${#devices[@]}:transport=tap,ifname=$2,depth=64"); shift 2 ;;
        -m) memory=$2; shift 2 ;;
        -t) limit=$2; shift 2 ;;
        -k) console=$2; shift 2 ;;
        --) shift; break ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$("$here/build-uml.sh") || exit 125

# The name of the folder is in the mount options inside, so it holds no odd characters.
control=$(mktemp -d "${TMPDIR:-/tmp}/stockade-uml.XXXXXX")
trap 'rm -rf "$control"' EXIT
[ -n "$console" ] || console=$control/console.log
printf '%q ' "$@" >"$control/command"
cat >"$control/init" <<INIT
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root STOCKADE_IN_UML=1
export PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8 TMPDIR=/run/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys 2>/dev/null
mount -o remount,ro / 2>/dev/null
for folder in ${shares[@]+"${shares[@]}"} "$control"; do mount -t hostfs -o "\$folder" none "\$folder"; done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm 2>/dev/null
mkdir -p -m 1777 /run/tmp; mkdir -p /run/netns /run/lock
# without the hash modules: "Requested AEAD algorithm not found"; without drbg: "unable to initialize cryptographic operations"
modprobe -d "$folder" -a drbg jitterentropy_rng ghash-generic gcm ccm ctr cbc ecb hmac authenc authencesn echainiv seqiv \
    md5 sha1_generic sha256_generic sha512_generic des_generic crypto_null ipv6 xfrm_user esp4 ah4 esp6 ah6 af_key \
    veth bridge dummy sch_netem tun ip_tables iptable_nat iptable_raw xt_nat xt_MASQUERADE xt_tcpudp nf_conntrack_netlink >"$control/modprobe.log" 2>&1
ip link set lo up
hostname uml
cd "$PWD" 2>/dev/null
/bin/bash "$control/command" </dev/null >"$control/output" 2>&1
echo \$? >"$control/status"
sync
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod 755 "$control/init"
: >"$control/output"
preload=()
if [ -e "$folder/wide-xstate.so" ]; then preload=(LD_PRELOAD="$folder/wide-xstate.so"); fi
env "${preload[@]}" timeout -k 5 "$limit" "$folder/linux.uml" mem="${memory}M" root=/dev/root rootfstype=hostfs rw \
    init="$control/init" con=null con0=null,fd:1 ${devices[@]+"${devices[@]}"} \
    </dev/null >"$console" 2>&1 || true
cat "$control/output"
if [ ! -s "$control/status" ]; then
    echo "uml-run.sh: the kernel did not boot or did not finish in $limit s; the end of its console:" >&2
    tail -n 30 "$console" >&2
    exit 125
fi
exit "$(cat "$control/status")"

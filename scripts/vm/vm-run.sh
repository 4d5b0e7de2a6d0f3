#!/usr/bin/env bash
# Runs a command as root in a throw-away VM with a full Debian kernel (XFRM with ESP and AH, nftables, TUN …), over
# the host's own files (/ read-only, under a tmpfs overlay), and returns its exit status.
#   vm-run.sh [-k full|cloud] [-s DIR]... [-m MEGABYTES] [-c CPUS] [-t SECONDS] [-a kvm|tcg] [-v] [--] COMMAND...
#   -s DIR  shares DIR writable at the same path (repeatable); all else that is written in the VM is lost
#   -v      says on stderr which accelerator and kernel it had and how long it took
# Output of COMMAND comes to stdout. Exit status 125: the VM did not boot or did not finish in time (the end of its
# console goes to stderr; STOCKADE_VM_CONSOLE=FILE keeps all of it). Needs: qemu-system-x86, and see build-vm.sh.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
flavour=full memory=1024 cpus=2 limit=300 accelerator='' verbose='' shares=()
while [ $# -gt 0 ]; do
    case $1 in
        -k) flavour=$2; shift 2 ;;
        -s) shares+=("$(realpath "$2")"); shift 2 ;;
        -m) memory=$2; shift 2 ;;
        -c) cpus=$2; shift 2 ;;
        -t) limit=$2; shift 2 ;;
        -a) accelerator=$2; shift 2 ;;
        -v) verbose=1; shift ;;
        --) shift; break ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command -v qemu-system-x86_64 >/dev/null || { echo "vm-run.sh: qemu-system-x86_64 is not installed" >&2; exit 125; }
folder=$("$here/build-vm.sh" "$flavour") || exit 125

control=$(mktemp -d "${TMPDIR:-/tmp}/stockade-vm.XXXXXX")
console=${STOCKADE_VM_CONSOLE:-$control/console.log}
helpers=()
cleanup() {
    local helper
    for helper in "${helpers[@]:-}"; do [ -z "$helper" ] || kill "$helper" 2>/dev/null || true; done
    rm -rf "$control"
}
trap cleanup EXIT
readlink -f "$folder/modules" >"$control/moddir"
printf '%s\n' "${shares[@]}" | sed '/^$/d' >"$control/shares"
{ printf 'cd %q 2>/dev/null\n' "$PWD"; printf '%q ' "$@"; echo; } >"$control/command"
cat >"$control/stage2" <<'STAGE2'
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root STOCKADE_IN_VM=1
umount /proc/sys/fs/binfmt_misc 2>/dev/null
hostname vm; ip link set lo up
awk '{print $1}' /proc/uptime > /.ctl/uptime
bash /.ctl/command </dev/null >/dev/hvc0 2>&1
echo $? > /.ctl/status
sync
echo o > /proc/sysrq-trigger; sleep 5; echo b > /proc/sysrq-trigger; sleep 60
STAGE2

# Only a CPU that shows svm or vmx has a KVM that boots stock kernels. Some hosts offer kvm-pvm alone: there a VM can
# be created, but a stock Debian kernel hangs before its first message. So emulation there.
if [ -z "$accelerator" ]; then
    accelerator=tcg
    if [ -w /dev/kvm ] && grep -qwE 'svm|vmx' /proc/cpuinfo; then accelerator=kvm; fi
fi
arguments=(
    -M q35 -m "$memory" -smp "$cpus" -nodefaults -no-user-config -display none -no-reboot
    -kernel "$folder/vmlinuz" -initrd "$folder/initramfs.gz"
    -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"
    -serial "file:$console" -device virtio-rng-pci
    -device virtio-serial-pci -chardev "stdio,id=out,signal=on" -device "virtconsole,chardev=out"
)
if [ "$accelerator" = kvm ]; then
    arguments+=(-accel kvm -cpu "${STOCKADE_VM_CPU:-host}")
else
    arguments+=(-accel "tcg,thread=multi" -cpu max)
fi
count=0
export_folder() { # TAG PATH [READ_ONLY]
    if [ "$flavour" = full ]; then
        arguments+=(
            -fsdev "local,id=f$count,path=$2,security_model=none,multidevs=remap${3:+,readonly=on}"
            -device "virtio-9p-pci,fsdev=f$count,mount_tag=$1"
        )
    else
        if [ "$count" = 0 ]; then
            arguments+=(-object "memory-backend-memfd,id=m,size=${memory}M,share=on" -numa "node,memdev=m")
        fi
        /usr/lib/qemu/virtiofsd --socket-path="$control/fs$count" -o source="$2" -o cache=auto -o sandbox=chroot \
            >/dev/null 2>&1 &
        helpers+=($!)
        for _ in $(seq 50); do [ ! -S "$control/fs$count" ] || break; sleep 0.1; done
        arguments+=(
            -chardev "socket,id=v$count,path=$control/fs$count"
            -device "vhost-user-fs-pci,chardev=v$count,tag=$1"
        )
    fi
    count=$((count + 1))
}
export_folder hostroot / read-only
export_folder ctl "$control"
index=0
for share in "${shares[@]:-}"; do
    if [ -n "$share" ]; then export_folder "share$index" "$share"; index=$((index + 1)); fi
done

start=$(date +%s%N)
emulator=0
timeout --foreground -k 5 "$limit" qemu-system-x86_64 "${arguments[@]}" </dev/null || emulator=$?
if [ -n "$verbose" ]; then
    printf 'vm: %s, kernel %s, ready after %s s of VM time, whole run %d.%03d s\n' "$accelerator" \
        "$(cat "$folder/version")" "$(cat "$control/uptime" 2>/dev/null || echo -)" \
        $((($(date +%s%N) - start) / 1000000000)) $((($(date +%s%N) - start) / 1000000 % 1000)) >&2
fi
if [ ! -e "$control/status" ]; then
    echo "vm-run.sh: no exit status (emulator's: $emulator, limit $limit s); the end of the console:" >&2
    tail -n 40 "$console" >&2
    exit 125
fi
exit "$(cat "$control/status")"

#!/usr/bin/env bash
# Builds, without installing anything, a cached Debian kernel and a small initramfs for vm-run.sh.
#   build-vm.sh [full|cloud]        prints the folder that it is in
# full  = linux-image-amd64:       nftables, XFRM, ESP, AH, TUN, 9p, PPP, L2TP, NET_KEY (the default)
# cloud = linux-image-cloud-amd64: boots a little faster, but has no 9p and no PPP
# Needs: apt lists (apt-get update), busybox-static, cpio, kmod. Cache: $STOCKADE_CACHE or ~/.cache/stockade.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
flavour=${1:-full}
cache=${STOCKADE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stockade}/vm
case $flavour in
    full) meta=linux-image-amd64 ;;
    cloud) meta=linux-image-cloud-amd64 ;;
    *) echo "build-vm.sh: full or cloud, not $flavour" >&2; exit 2 ;;
esac
for program in busybox cpio depmod modprobe apt-get dpkg; do
    command -v "$program" >/dev/null || { echo "build-vm.sh: $program is not installed" >&2; exit 1; }
done
folder=$cache/$flavour
mkdir -p "$cache"
exec 9>"$cache/$flavour.lock"
if command -v flock >/dev/null; then flock 9; fi
if [ -e "$folder/ready" ]; then echo "$folder"; exit 0; fi
rm -rf "$folder"
mkdir -p "$folder/deb"

package=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
    apt-get -qq update </dev/null >&2 || true
    package=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
fi
[ -n "$package" ] || { echo "build-vm.sh: apt has no $meta: run apt-get update" >&2; exit 1; }
download() { (cd "$folder/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package" </dev/null >&2); }
# lists that are older than the last point release name a file that is gone: fetch them anew, once
download || { [ "$(id -u)" = 0 ] && apt-get -qq update </dev/null >&2 && download; } ||
    { echo "build-vm.sh: cannot download $package" >&2; exit 1; }
dpkg -x "$folder"/deb/*.deb "$folder/root"
rm -r "$folder/deb"
version=${package#linux-image-}
depmod -b "$folder/root" "$version"
cp "$folder/root/boot/vmlinuz-$version" "$folder/vmlinuz"
ln -sfn "root/lib/modules/$version" "$folder/modules"
echo "$version" >"$folder/version"

# initramfs: busybox, and only the modules that reach the host's file system
ramfs=$folder/initramfs
mkdir -p "$ramfs"/{bin,dev,proc,sys,run,new,lower,rw,ctl} "$ramfs/lib/modules/$version"
cp "$(command -v busybox)" "$ramfs/bin/busybox"
ln -s busybox "$ramfs/bin/sh"
wanted=(virtio_pci virtio_console overlay)
if [ "$flavour" = full ]; then wanted+=(9pnet_virtio 9p); else wanted+=(virtiofs); fi
for module in "${wanted[@]}"; do
    modprobe -d "$folder/root" -S "$version" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
done | sort -u | while read -r file; do
    relative=${file#"$folder/root/"}
    mkdir -p "$ramfs/$(dirname "$relative")"
    cp "$file" "$ramfs/$relative"
done
cp "$folder/root/lib/modules/$version"/modules.{builtin,order} "$ramfs/lib/modules/$version/"
depmod -b "$ramfs" "$version" 2>/dev/null
cat >"$ramfs/init" <<'INIT'
#!/bin/sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev; busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys
busybox --install -s /bin
die() { echo "vm-init: $*" > /dev/console; reboot -f; }
for m in virtio_pci virtio_console overlay 9pnet_virtio 9p virtiofs; do modprobe -q $m; done
# mount one tag of the host: 9p (full kernel) or virtiofs (cloud kernel); $1 tag, $2 where, $3 ro|rw
hostmount() {
  if grep -qw 9p /proc/filesystems; then
    c=loose; [ "$3" = rw ] && c=none
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=$c,$3 "$1" "$2"
  else mount -t virtiofs -o "$3" "$1" "$2"; fi
}
hostmount hostroot /lower ro || die "no host root"
mount -t tmpfs -o mode=755 tmpfs /rw && mkdir /rw/up /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work overlay /new || die "no overlay"
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/.ctl /new/lib/modules
mount -t proc proc /new/proc; mount -t sysfs sys /new/sys; mount -t devtmpfs dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm; mount -t devpts pts /new/dev/pts; mount -t tmpfs shm /new/dev/shm
mount -t tmpfs -o mode=755 run /new/run
hostmount ctl /new/.ctl rw || die "no ctl"
kv=$(uname -r); moddir=$(cat /new/.ctl/moddir)
mkdir -p "/new/lib/modules/$kv"; mount --bind "/lower$moddir" "/new/lib/modules/$kv" || die "no modules"
# the shares, writable, at the same path as on the host
i=0
while read -r p; do mkdir -p "/new$p"; hostmount "share$i" "/new$p" rw || die "no share $p"; i=$((i+1)); done < /new/.ctl/shares
exec switch_root /new /bin/sh /.ctl/stage2
INIT
chmod +x "$ramfs/init"
(cd "$ramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$folder/initramfs.gz"
rm -r "$ramfs"
touch "$folder/ready"
echo "$folder"

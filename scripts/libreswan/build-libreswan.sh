#!/usr/bin/env bash
# Prints a folder with Debian's libreswan and the libraries and tools that it needs, fetched once by apt and unpacked,
# never installed: the package conflicts with strongSwan's (both own /usr/sbin/ipsec).
#   STOCKADE_CACHE=DIR   where it is kept, in its folder libreswan (default ~/.cache/stockade)
# Run its programs with LD_LIBRARY_PATH=FOLDER/lib. Exit status 125: it cannot be had; stderr says why.
set -euo pipefail
cache=${STOCKADE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stockade}/libreswan
if [ -x "$cache/root/usr/libexec/ipsec/pluto" ]; then echo "$cache"; exit 0; fi
give_up() { echo "build-libreswan.sh: $*" >&2; exit 125; }
for tool in apt-get dpkg-deb; do command -v "$tool" >/dev/null || give_up "no $tool"; done
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ -x "$cache/root/usr/libexec/ipsec/pluto" ]; then echo "$cache"; exit 0; fi
work=$(mktemp -d "$cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
packages=(libreswan libnss3-tools libnss3 libnspr4 libldns3 libevent-core-2.1-7 libevent-pthreads-2.1-7 libunbound8
    libcurl3-nss)
fetch() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2); }
fetch || { apt-get -qq update >&2 || true; fetch; } || give_up "apt-get cannot fetch libreswan and its libraries"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; rm -f "$package"; done
ln -s "root/usr/lib/$(dpkg --print-architecture | sed 's/amd64/x86_64/;s/arm64/aarch64/')-linux-gnu" "$work/lib"
missing=$(LD_LIBRARY_PATH="$work/lib" ldd "$work/root/usr/libexec/ipsec/pluto" "$work/root/usr/bin/certutil" |
    awk '/not found/ { print $1 }' | sort -u | tr '\n' ' ')
[ -z "$missing" ] || give_up "libraries are missing: $missing"
chmod 755 "$work"
rm -rf "$cache"
mv "$work" "$cache"
trap - EXIT
echo "$cache"

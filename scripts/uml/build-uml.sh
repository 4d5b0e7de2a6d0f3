#!/usr/bin/env bash
# Prints a folder with a User-Mode-Linux kernel (`linux.uml`) and its modules (`lib/modules/VERSION`), made from Debian's
# package user-mode-linux, which is fetched once by apt and unpacked, never installed.
#   STOCKADE_CACHE=DIR   where it is kept, in its folder uml (default ~/.cache/stockade)
# Exit status 125: it cannot be had; stderr says why.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
cache=${STOCKADE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stockade}/uml
if [ -x "$cache/linux.uml" ] && [ -d "$cache/lib/modules" ]; then echo "$cache"; exit 0; fi
give_up() { echo "build-uml.sh: $*" >&2; exit 125; }
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ -x "$cache/linux.uml" ] && [ -d "$cache/lib/modules" ]; then echo "$cache"; exit 0; fi
work=$(mktemp -d "$cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ -x /usr/bin/linux.uml ]; then
    program=/usr/bin/linux.uml modules=/usr/lib/uml/modules
else
    for tool in apt-get dpkg-deb; do command -v "$tool" >/dev/null || give_up "no $tool, and no /usr/bin/linux.uml"; done
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download user-mode-linux >&2) || give_up "apt-get cannot fetch user-mode-linux"
    dpkg-deb -x "$work"/user-mode-linux_*.deb "$work/root" && rm -f "$work"/*.deb
    program=$cache/root/usr/bin/linux.uml modules=$cache/root/usr/lib/uml/modules
fi
# For processors with AMX; the others do without (see the head of the file).
if command -v cc >/dev/null; then cc -O2 -shared -fPIC -o "$work/wide-xstate.so" "$here/wide-xstate.c"; fi
mkdir -p "$work/lib"
ln -s "$program" "$work/linux.uml"
ln -s "$modules" "$work/lib/modules"
chmod 755 "$work"
rm -rf "$cache"
mv "$work" "$cache"
trap - EXIT
echo "$cache"

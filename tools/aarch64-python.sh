#!/usr/bin/env bash
# Unpacks Debian's Python for 64-bit ARM, of the release that this machine's apt knows, into a folder. Nothing is installed, and
# apt's state does not change. FOLDER/root is a root folder with Python, its headers, and the C and C++ libraries; FOLDER/python
# runs it under QEMU, with the packages of FOLDER/site.
# aarch64-python.sh FOLDER
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1")
state=$folder/apt root=$folder/root
rm -rf "$state" "$root"
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$root/usr/lib"

arm64_apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state" -o Dir::State::Lists="$state/lists" \
    -o Dir::State::status=/dev/null -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root "$@"
}
arm64_apt update
arm64_apt install --yes --download-only --no-install-recommends python3-minimal libpython3-stdlib libstdc++6 >/dev/null
cd "$state/cache/archives"
python=$(basename "$(echo python3.*-minimal_*.deb)" | sed 's/-minimal_.*//')
arm64_apt download "lib$python-dev" >/dev/null

ln -s usr/lib "$root/lib" # the loader is asked for there
for package in *.deb; do dpkg-deb --extract "$package" "$root"; done
rm -r "$state"
cat >"$folder/python" <<END
#!/bin/sh
# The processor is runtime/cmake/aarch64-linux-gnu.cmake's.
PYTHONPATH='$folder/site' exec qemu-aarch64 -cpu cortex-a76 -L '$root' '$root/usr/bin/$python' "\$@"
END
chmod +x "$folder/python"

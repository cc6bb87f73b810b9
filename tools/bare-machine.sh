#!/usr/bin/env bash
# Runs commands as a new user would on a new machine: unpacks a minimal Debian into a folder, clones this checkout into it, and runs
# each command there as root, with an empty home folder. Finds system packages and build tools that are not declared. Needs root
# and debootstrap. Prints how long each step took, and stops at the first that fails.
# bare-machine.sh [COMMAND...]      (default: 'make demo' 'make test' 'make check')
# Environment: FOLDER, where the machine is unpacked (default: build/bare-machine; removed first); SUITE (default: trixie);
#   MIRROR, a Debian mirror (default: debootstrap's own).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath -m "${FOLDER:-build/bare-machine}")
suite=${SUITE:-trixie}
[ $# -gt 0 ] || set -- 'make demo' 'make test' 'make check'
[ "$(id -u)" -eq 0 ] || { echo "bare-machine: needs root, to enter another root folder" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "bare-machine: debootstrap is missing: apt-get install debootstrap" >&2; exit 2; }

leave() { # unmounts the machine's file systems
  local place
  for place in proc dev sys; do mountpoint -q "$folder/$place" && umount -l "$folder/$place"; done
  return 0
}
trap leave EXIT
step() { # NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  echo "== $name"
  "$@" || { echo "bare-machine: failed after $((SECONDS - begin)) s: $name" >&2; exit 1; }
  echo "== $name: $((SECONDS - begin)) s"
}
inside() { # COMMAND, in the new machine's checkout
  chroot "$folder" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 TERM="${TERM:-dumb}" PIP_NO_CACHE_DIR=1 bash -c "cd /root/rexit && $1"
}
unpack() {
  leave
  rm -rf --one-file-system "$folder"
  mkdir -p "$folder"
  debootstrap --variant=minbase "$suite" "$folder" ${MIRROR:+"$MIRROR"} >"$folder.log" 2>&1 || { tail -n 20 "$folder.log" >&2; return 1; }
  # Names and certificates of the network, which every machine has.
  cp /etc/resolv.conf /etc/hosts "$folder/etc/"
  cp -r /usr/local/share/ca-certificates "$folder/usr/local/share/"
  local place
  for place in proc dev sys; do mount --rbind "/$place" "$folder/$place" && mount --make-rslave "$folder/$place"; done
  # A new user brings a checkout and make.
  git clone --quiet . "$folder/root/rexit"
  inside 'apt-get update -qq && apt-get install -qq -y --no-install-recommends make ca-certificates >/dev/null 2>&1'
}

step "unpack Debian $suite" unpack
for command in "$@"; do step "$command" inside "$command"; done

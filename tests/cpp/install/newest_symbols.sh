#!/bin/sh
# Fails if a library needs a newer C or C++ library than JetPack 6 has (Ubuntu 22.04: glibc 2.35, libstdc++ of GCC 12).
# newest_symbols.sh READELF LIBRARY
set -eu
check() { # VERSION_PREFIX NEWEST_ALLOWED
  newest=$("$readelf" --wide --version-info "$library" | grep -o "Name: $1[0-9.]*" | sed "s/Name: $1//" | sort -uV | tail -n 1)
  echo "$1 $newest, at most $2 allowed"
  [ "$(printf '%s\n' "$newest" "$2" | sort -V | tail -n 1)" = "$2" ] || {
    echo "$library needs $1$newest; symbols:" >&2
    "$readelf" --wide --dyn-syms "$library" | grep -F "@$1$newest" >&2
    exit 1
  }
}
readelf=$1 library=$2
[ -e "$library" ]
check GLIBC_ 2.35
check GLIBCXX_ 3.4.30
check CXXABI_ 1.3.13

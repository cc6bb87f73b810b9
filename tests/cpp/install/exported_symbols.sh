#!/bin/sh
# The library exports the functions that rexit.h declares, and nothing else. They and its SONAME have the minor version, so that a
# program built with another one is not started.
# exported_symbols.sh NM READELF LIBRARY HEADER VERSION
set -eu
exported=$("$1" --dynamic --defined-only --format=posix "$3" | cut -d ' ' -f 1 | sort)
declared=$( (echo "REXIT_$5" && grep -oE '^(REXIT_NODISCARD )?REXIT_API [^(]*' "$4" | grep -o 'rexit_[a-z_]*$' | sed "s/$/@@REXIT_$5/") | sort)
[ "$exported" = "$declared" ] || {
  printf 'exported:\n%s\ndeclared:\n%s\n' "$exported" "$declared" >&2
  exit 1
}
"$2" --dynamic "$3" | grep -F "Library soname: [librexit.so.$5]"

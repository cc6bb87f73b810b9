#!/bin/sh
# The library exports the functions that rexit.h declares, and nothing else.
# exported_symbols.sh NM LIBRARY HEADER
set -eu
exported=$("$1" --dynamic --defined-only --format=posix "$2" | cut -d ' ' -f 1 | sort)
declared=$(grep -oE '^(REXIT_NODISCARD )?REXIT_API [^(]*' "$3" | grep -o 'rexit_[a-z_]*$' | sort)
[ "$exported" = "$declared" ] || {
  printf 'exported:\n%s\ndeclared:\n%s\n' "$exported" "$declared" >&2
  exit 1
}

#!/bin/sh
# The DLL exports the functions that rexit.h declares, and nothing else. It needs none of the compiler's libraries.
# exported_by_dll.sh OBJDUMP LIBRARY HEADER
set -eu
table=$("$1" -p "$2")
exported=$(echo "$table" | sed -n '/\[Ordinal\/Name Pointer\]/,/^$/p' | grep -oE '[A-Za-z_][A-Za-z0-9_]*$' | grep -vE '^(Table|Name)$' | sort)
declared=$(grep -oE '^(REXIT_NODISCARD )?REXIT_API [^(]*' "$3" | grep -o 'rexit_[a-z_]*$' | sort)
[ "$exported" = "$declared" ] || {
  printf 'exported:\n%s\ndeclared:\n%s\n' "$exported" "$declared" >&2
  exit 1
}
! echo "$table" | grep 'DLL Name:' | grep -iE 'gcc|stdc\+\+|winpthread'

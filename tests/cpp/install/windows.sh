#!/bin/sh
# Runs the library for Windows under Wine: its answers from a folder and from an archive are those of this machine's library.
# windows.sh DLL_FOLDER LIBRARY_FOLDER ONNXRUNTIME ONNXRUNTIME_DLL BUNDLE WORK_FOLDER, in the source folder.
# $CXX: this machine's compiler.
set -eu
rm -rf "$6"
mkdir -p "$6"
x86_64-w64-mingw32-g++-posix -std=c++17 -O1 -Iruntime/include -o "$6/answers.exe" tests/cpp/install/answers.cpp \
  "$1/librexit.dll" -static
"${CXX:-c++}" -std=c++17 -O1 -Iruntime/include -o "$6/answers" tests/cpp/install/answers.cpp -L"$2" -lrexit -Wl,-rpath,"$2"
cp "$1/librexit.dll" "$4" "$6"
tar --format=ustar -cf "$6/bundle.tar" -C "$5" .
REXIT_ONNXRUNTIME_LIBRARY=$3 "$6/answers" "$5" 106 -7 8 88 >"$6/expected.txt"
export WINEPREFIX="$6/wine" WINEDEBUG=-all REXIT_ONNXRUNTIME_LIBRARY="$(basename "$4")"
for bundle in "$5" "$6/bundle.tar"; do
  (cd "$6" && wine answers.exe "Z:$bundle" 106 -7 8 88) | tr -d '\r' >"$6/answers.txt"
  paste -d ' ' "$6/expected.txt" "$6/answers.txt" | awk '
    { difference = $2 > $4 ? $2 - $4 : $4 - $2; if (difference > worst) worst = difference }
    $1 != $3 || difference > 1e-3 { print "differs: " $0; failed = 1 }
    END { print NR " numbers, largest difference of log-odds " worst + 0; exit failed || NR == 0 }'
done
if (cd "$6" && wine answers.exe "Z:$5" 106 4) 2>"$6/error.txt"; then exit 1; fi
grep -q 'item 4 is not in the catalog' "$6/error.txt"

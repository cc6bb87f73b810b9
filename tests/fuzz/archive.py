"""Reads and writes the archives of bundles that fuzz targets take (archive.hpp): to look into a finding, and to make seeds.

`python -m fuzz.archive unpack FILE FOLDER` and `python -m fuzz.archive pack FOLDER FILE`, in tests/.
"""

from __future__ import annotations

import io
import struct
import sys
import tarfile
from pathlib import Path


def pack(folder: Path) -> bytes:
    """All files below the folder."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, contents = path.relative_to(folder).as_posix().encode(), path.read_bytes()
            parts += [struct.pack("<H", len(name)), name, struct.pack("<I", len(contents)), contents]
    return b"".join(parts)


def tar(folder: Path) -> bytes:
    """A tar archive of the folder, the same for the same files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                member = tarfile.TarInfo(path.relative_to(folder).as_posix())
                member.size = path.stat().st_size
                archive.addfile(member, io.BytesIO(path.read_bytes()))
    return file.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Writes an archive's files below the folder."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    while at < len(data):
        path = folder / take(struct.unpack("<H", take(2))[0]).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(take(struct.unpack("<I", take(4))[0]))


if __name__ == "__main__":
    what, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "pack":
        target.write_bytes(pack(source))
    else:
        unpack(source.read_bytes(), target)

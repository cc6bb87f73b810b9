"""Bundles in a tar archive, for commands that read files themselves. The runtime reads archives on its own."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rexit.errors import BundleError, InputError, RexitError


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yields a bundle's folder: `path` itself, or a temporary folder with the files of the archive at `path`.

    Errors that the block raises name the archive in place of the temporary folder.

    Raises:
        BundleError: The archive is compressed or damaged, or has paths that leave it.
        InputError: There is no room for its files.
    """
    if not path.is_file() or not tarfile.is_tarfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rexit-") as place:
        folder = Path(place) / path.name
        _unpack(path, folder)
        try:
            yield folder
        except RexitError as exc:
            exc.args = (str(exc).replace(str(folder), str(path)),)
            raise


def _unpack(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path, "r:") as archive:
            archive.extractall(folder, filter="data")
    except tarfile.ReadError as exc:
        raise BundleError(f"{path}: cannot be read as an uncompressed tar archive: {exc}") from exc
    except tarfile.TarError as exc:
        raise BundleError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be unpacked in {folder.parent}: {exc.strerror}") from exc

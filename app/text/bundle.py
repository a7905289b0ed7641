"""The tokenizer bundle: a zip of a worker's tokenizer files, unpacked with care.

Names inside are flat. The limits are those of SMG: 50 files, 500 MiB
unpacked. Whether the zip came whole was settled where it was received: the
worker sends a digest with it.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from pathlib import Path

MAX_FILES = 50
MAX_UNPACKED_BYTES = 500 * 1024**2
_READ_BYTES = 1024**2


class BundleBroken(ValueError):
    """The bundle is no readable zip, or not safe to unpack; the text is one sentence."""


def unpack_bundle(
    data: bytes, folder: Path, *, source: str, max_unpacked_bytes: int = MAX_UNPACKED_BYTES
) -> None:
    """Writes the files of a bundle into an empty folder.

    Args:
        data: The zip.
        folder: Exists and is empty.
        source: Whose bundle it is, for the texts of errors.
        max_unpacked_bytes: Limit of all files together, counted while unpacking.

    Raises:
        BundleBroken: Files may have been written by then.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _extract(archive, folder, max_unpacked_bytes)
    except BundleBroken as fault:
        raise BundleBroken(f"The tokenizer bundle of {source} {fault}.") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as fault:
        raise BundleBroken(
            f"The tokenizer bundle of {source} is not a readable zip ({fault})."
        ) from fault


def _extract(archive: zipfile.ZipFile, folder: Path, max_unpacked_bytes: int) -> None:
    entries = archive.infolist()
    if not entries or len(entries) > MAX_FILES:
        raise BundleBroken(f"holds {len(entries)} files; 1 to {MAX_FILES} are taken")
    if len({entry.filename for entry in entries}) != len(entries):
        raise BundleBroken("names a file twice")
    n_left = max_unpacked_bytes
    for entry in entries:
        _check_name(entry)
        # What the header says of the size may be a lie: the bytes are counted.
        with archive.open(entry) as packed, (folder / entry.filename).open("xb") as file:
            while block := packed.read(_READ_BYTES):
                n_left -= len(block)
                if n_left < 0:
                    raise BundleBroken(f"unpacks to more than {max_unpacked_bytes} bytes")
                file.write(block)


def _check_name(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    is_flat = name not in {"", ".", ".."} and not any(char in name for char in "/\\:\0")
    if not is_flat or entry.is_dir():
        raise BundleBroken(f"holds {name!r}, which is not a plain file name")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BundleBroken(f"holds {name!r}, which is a link")

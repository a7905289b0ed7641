"""The tokenizer bundle: a zip of a worker's tokenizer files, unpacked with care.

A worker may have been added by whoever reaches the API, so nothing in it is believed. Names
inside are flat. The limits are those of SMG: 50 files, 500 MiB unpacked. Only kinds of files that
tokenizers are made of are written; others are passed over. Whether the zip came whole was settled
where it was received: the worker sends a digest with it.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

MAX_FILES = 50
MAX_UNPACKED_BYTES = 500 * 1024**2
MAX_DIRECTORY_BYTES = 64 * 1024
"""Of the list of files at the end; 50 names need less than a tenth. Python makes an object of
each entry before anyone can count them: 200 MiB of entries would take 2 GB."""
MAX_NAME_CHARS = 128
SUFFIXES = frozenset({".json", ".txt", ".jinja", ".model", ".tiktoken"})
"""Of vocab.txt, merges.txt, tokenizer.model and the like; nothing that could be run."""
_READ_BYTES = 1024**2
_END = struct.Struct("<4s4H2LH")
"""What ends a zip: mark, disk numbers and entries, size and place of the list, comment."""
_END_MARK, _ZIP64_MARK = b"PK\x05\x06", b"PK\x06\x07"
_ZIP64_BYTES = 20


_PACKINGS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""Others may ask for gigabytes of memory to unpack a few bytes."""
# What Python's reader raises for bytes that are no zip, found by feeding it such; OSError is also
# a full disk.
_ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError,
    ValueError, OSError,
)  # fmt: skip


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
        _check_end(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _extract(archive, folder, max_unpacked_bytes)
    except BundleBroken as fault:
        raise BundleBroken(f"The tokenizer bundle of {source} {fault}.") from None
    except _ZIP_FAULTS as fault:
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
        if Path(entry.filename).suffix not in SUFFIXES:
            continue
        # What the header says of the size may be a lie: the bytes are counted.
        with archive.open(entry) as packed, (folder / entry.filename).open("xb") as file:
            while block := packed.read(_READ_BYTES):
                n_left -= len(block)
                if n_left < 0:
                    raise BundleBroken(f"unpacks to more than {max_unpacked_bytes} bytes")
                file.write(block)


def _check_end(data: bytes) -> None:
    """Bound the list of files before it is read.

    The record that says its size must be the last thing, without a comment and without the
    larger form: so no second one can be hidden that another reader would take instead.
    """
    if len(data) < _END.size or data[-_END.size :][:4] != _END_MARK:
        raise BundleBroken("does not end as a plain zip does")
    *_, n_directory_bytes, _, n_comment_bytes = _END.unpack(data[-_END.size :])
    at = len(data) - _END.size - _ZIP64_BYTES
    if n_comment_bytes or (at >= 0 and data[at : at + 4] == _ZIP64_MARK):
        raise BundleBroken("does not end as a plain zip does")
    if n_directory_bytes > MAX_DIRECTORY_BYTES:
        raise BundleBroken(f"has a list of files of over {MAX_DIRECTORY_BYTES} bytes")


def _check_name(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    is_flat = name not in {"", ".", ".."} and not any(char in name for char in "/\\:\0")
    if not is_flat or entry.is_dir() or not name.isprintable() or len(name) > MAX_NAME_CHARS:
        raise BundleBroken(f"holds {name[:MAX_NAME_CHARS]!r}, which is not a plain file name")
    if entry.compress_type not in _PACKINGS:
        raise BundleBroken(f"holds {name!r}, packed in another way than tokenizer files are")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BundleBroken(f"holds {name!r}, which is a link")

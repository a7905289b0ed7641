"""Unpacking a worker's tokenizer bundle."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.sim.small_tokenizer import write_small_tokenizer
from app.text.bundle import BundleBroken, unpack_bundle
from app.text.tokenizer import Tokenizer


def zip_of(files: dict[str, bytes], *, mode: int = 0) -> bytes:
    """A zip with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path, **limits: int) -> None:
    """Unpacks what a worker sent."""
    unpack_bundle(data, folder, source="grpc://worker:1", **limits)


def test_bundle_holds_a_tokenizer(tmp_path: Path) -> None:
    """What a worker sends can be loaded."""
    made, folder = tmp_path / "made", tmp_path / "unpacked"
    write_small_tokenizer(made)
    folder.mkdir()
    unpack(zip_of({path.name: path.read_bytes() for path in made.iterdir()}), folder)
    ids = Tokenizer.load(folder).encode("Hello!", False)
    assert ids == Tokenizer.load(made).encode("Hello!", False)


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/x.json",
        "a/x.json",
        "..\\x.json",
        "C:x.json",
        "..",
        "folder/",
        "x\n.json",
        "x" * 200 + ".json",
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    """Only plain file names; nothing is written outside of the folder."""
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(BundleBroken, match="not a plain file name"):
        unpack(zip_of({name: b"{}"}), folder)
    assert [] == [path for path in tmp_path.rglob("*") if path != folder]


def test_links_are_refused(tmp_path: Path) -> None:
    """A link would be read through later."""
    with pytest.raises(BundleBroken, match="which is a link"):
        unpack(zip_of({"x.json": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), tmp_path)


def test_limits(tmp_path: Path) -> None:
    """Of what it unpacks to, and of the number of files."""
    bomb = zip_of({"x.json": b"0" * 100_000})
    with pytest.raises(BundleBroken, match="unpacks to more than 99999 bytes"):
        unpack(bomb, tmp_path, max_unpacked_bytes=99_999)
    with pytest.raises(BundleBroken, match="holds 51 files"):
        unpack(zip_of({f"{at}.json": b"" for at in range(51)}), tmp_path)


@pytest.mark.parametrize("data", [b"", b"no zip at all", zip_of({"x.json": b"{}" * 500})[:-60]])
def test_broken_zips(tmp_path: Path, data: bytes) -> None:
    """One sentence that names the worker."""
    with pytest.raises(BundleBroken, match=r"^The tokenizer bundle of grpc://worker:1 .*\.$"):
        unpack(data, tmp_path)


def test_damaged_file_is_found(tmp_path: Path) -> None:
    """The check sum of the zip itself."""
    data = bytearray(zip_of({"x.json": b"0123456789" * 3}))
    at = data.index(b"x.json") + 8
    data[at] ^= 0xFF
    with pytest.raises(BundleBroken, match="not a readable zip"):
        unpack(bytes(data), tmp_path)


def test_same_name_twice(tmp_path: Path) -> None:
    """Which of the two would count?"""
    data = zip_of({"a.json": b"1", "b.json": b"2"}).replace(b"b.json", b"a.json")
    with pytest.raises(BundleBroken, match="names a file twice"):
        unpack(data, tmp_path)


def test_only_tokenizer_files_are_written(tmp_path: Path) -> None:
    """What else is in it, code above all, is passed over; it still has to be named well."""
    names = ("tokenizer.json", "vocab.txt", "a.jinja", "a.model", "a.tiktoken")
    others = ("run.py", "model.pkl", "pytorch_model.bin", "a.so", "README", "x.json.py")
    unpack(zip_of(dict.fromkeys(names + others, b"{}")), tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BundleBroken, match="not a plain file name"):
        unpack(zip_of({"../run.py": b""}), tmp_path)


def test_files_cannot_be_run(tmp_path: Path) -> None:
    """Whatever mode the zip gives them."""
    unpack(zip_of({"x.json": b"{}"}, mode=stat.S_IFREG | 0o4777), tmp_path)
    assert (tmp_path / "x.json").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(tmp_path: Path, packing: int) -> None:
    """The gateway sets the memory that unpacking takes, not the worker."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr("x.json", b"{}")
    with pytest.raises(BundleBroken, match="packed in another way"):
        unpack(buffer.getvalue(), tmp_path)


def test_list_of_files_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    """A million entries are refused by the size of their list: none becomes an object."""
    data = zip_of({f"{at:060}.json": b"" for at in range(600)})
    with pytest.raises(BundleBroken, match="a list of files of over 65536 bytes"):
        unpack(data, tmp_path)


def _with_comment(data: bytes) -> bytes:
    """The whole zip again in the comment of an empty one."""
    end = zip_of({})
    return end[:-2] + len(data).to_bytes(2, "little") + data


def _with_zip64(data: bytes) -> bytes:
    """A mark by which readers look for a second record of the size."""
    end = data[-22:]
    return data[:-22] + b"PK\x06\x07" + bytes(16) + end


@pytest.mark.parametrize(
    "dress",
    [_with_comment, _with_zip64, lambda data: data + b"\0", lambda data: data[:-2] + b"\1\0"],
)
def test_no_second_end(tmp_path: Path, dress: Callable[[bytes], bytes]) -> None:
    """What says the size of the list cannot be hidden behind another record."""
    data = dress(zip_of({"x.json": b"{}"}))
    if dress is _with_comment:
        # It ends as a plain zip does: what counts is the inner one, for every reader.
        unpack(data, tmp_path)
        assert (tmp_path / "x.json").exists()
        return
    with pytest.raises(BundleBroken, match="does not end as a plain zip does"):
        unpack(data, tmp_path)


def test_disk_that_is_full_or_gone(tmp_path: Path) -> None:
    """The worker's tokenizer cannot be had, with a sentence; no defect of the gateway."""
    with pytest.raises(BundleBroken, match="No such file"):
        unpack(zip_of({"x.json": b"{}"}), tmp_path / "nowhere")

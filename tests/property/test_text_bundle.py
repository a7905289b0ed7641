"""Unpacking a bundle, for all damage: one kind of error, and nothing outside of the folder."""

from __future__ import annotations

import io
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.bundle import BundleBroken, unpack_bundle


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokenizer.json", b'{"a": 1}' * 40)
        archive.writestr("vocab.txt", b"one\ntwo\n")
    return buffer.getvalue()


DATA = _zip()
_changes = st.lists(
    st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=5
)


@given(_changes, st.integers(0, 8))
@settings(max_examples=500)
def test_any_damage(changes: list[tuple[int, int]], n_cut: int) -> None:
    """Bytes changed, bytes missing: it is unpacked, or refused in one sentence."""
    data = bytearray(DATA)
    for at, value in changes:
        data[at] = value
    del data[changes[0][0] : changes[0][0] + n_cut]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "inner"
        folder.mkdir()
        with suppress(BundleBroken):
            unpack_bundle(bytes(data), folder, source="w", max_unpacked_bytes=10_000)
        assert [path.name for path in Path(name).iterdir()] == ["inner"]
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000

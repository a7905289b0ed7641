"""A key file that changes while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from app import followed_files
from app.middleware import key_file
from app.middleware.key_file import KeyFile, load_key_file
from app.middleware.key_ring import KeyRing
from app.middleware.keys import KeyFault
from tests.flow.fleet import until

OLD, NEW = "a:old-key-1\n", "a:new-key-1\n"
# Far longer than any test: what happens then happens because of `wake`.
NEVER_S = 600.0


class Following:
    """A followed file, its keys and what was logged of it."""

    def __init__(self, path: Path, poll_s: float) -> None:
        path.write_text(OLD)
        self.path = path
        found, mark = load_key_file(str(path))
        self.keys = KeyRing([], found)
        self.file = KeyFile(str(path), self.keys, mark, poll_s=poll_s)
        self.log = CapturingLogger()

    def has(self, key: str) -> bool:
        """Whether a key is good now."""
        return self.keys.find(key.encode()) is not None

    def lines(self) -> list[tuple[str, str]]:
        """Level and reason of what was logged."""
        return [(call.method_name, call.kwargs.get("reason", "")) for call in self.log.calls]


@asynccontextmanager
async def following(path: Path, poll_s: float = 0.005) -> AsyncIterator[Following]:
    """Follows a file with one key."""
    made = Following(path, poll_s)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.file.watch(made.log))
        yield made
        task.cancel()


async def test_a_changed_file_is_taken(tmp_path: Path) -> None:
    """The old key is bad as soon as the new one is good."""
    async with following(tmp_path / "keys") as seen:
        seen.path.write_text(NEW)
        await until(lambda: seen.has("new-key-1"))
        assert not seen.has("old-key-1")
        assert seen.lines() == [("info", "")]


async def test_a_link_that_points_elsewhere_is_taken(tmp_path: Path) -> None:
    """As Kubernetes changes a mounted secret."""
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "keys"
    first.write_text(OLD)
    second.write_text(NEW)
    link.symlink_to(first)
    async with following(link) as seen:
        (tmp_path / "next").symlink_to(second)
        (tmp_path / "next").rename(link)
        await until(lambda: seen.has("new-key-1"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a:b:c\n", "line 1"),
        (b"", "no key"),
        (b"\xff\xfe", "UTF-8"),
        (None, "cannot be read"),
        (b"#" * 101, "100 bytes"),
    ],
)
async def test_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    """One line is logged, however often it is looked at, and the next good file is taken."""
    monkeypatch.setattr(key_file, "MAX_FILE_BYTES", 100)
    async with following(tmp_path / "keys") as seen:
        if content is None:
            seen.path.unlink()
        else:
            seen.path.write_bytes(content)
        await until(seen.lines)
        await asyncio.sleep(0.05)
        ((level, said),) = seen.lines()
        assert level == "warning"
        assert reason in said
        assert seen.has("old-key-1")
        seen.path.write_text(NEW)
        await until(lambda: seen.has("new-key-1"))


async def test_a_file_that_is_being_written_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes between every two looks is not taken until it stays."""
    marks = iter(range(1, 40))
    real = followed_files.mark_at
    is_changing = True

    def mark_at(path: str) -> followed_files.Mark:
        return (next(marks), 0, 0, 0) if is_changing else real(path)

    async with following(tmp_path / "keys") as seen:
        monkeypatch.setattr(followed_files, "mark_at", mark_at)
        seen.path.write_text(NEW)
        await until(lambda: next(marks) > 20)
        assert seen.has("old-key-1")
        is_changing = False
        await until(lambda: seen.has("new-key-1"))


async def test_wake_takes_it_at_once(tmp_path: Path) -> None:
    """Without waiting for a poll, and a broken file is reported each time."""
    async with following(tmp_path / "keys", NEVER_S) as seen:
        seen.path.write_text(NEW)
        seen.file.wake()
        await until(lambda: seen.has("new-key-1"))
        seen.path.write_text("broken")

        def has_lines(n: int) -> bool:
            return len(seen.lines()) == n

        for n_lines in (2, 3):
            seen.file.wake()
            await until(partial(has_lines, n_lines))
        assert seen.has("new-key-1")


async def test_a_key_of_a_flag_in_the_file_is_refused(tmp_path: Path) -> None:
    """The ring's own refusal keeps the old keys too."""
    async with following(tmp_path / "keys", NEVER_S) as seen:
        ring = seen.keys
        ring._fixed, _ = load_key_file(str(seen.path))
        ring.replace(())
        seen.file.wake()
        await until(seen.lines)
        assert "given twice" in seen.lines()[0][1]
        assert seen.has("old-key-1")


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    """At start the caller is told, with the system's own words for a missing file."""
    with pytest.raises(KeyFault, match="No such file"):
        load_key_file(str(tmp_path / "missing"))

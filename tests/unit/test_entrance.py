"""Limits and keys as the settings and the system have them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.gateway.entrance import build_entrance, log_entrance
from app.observability.log import configure
from app.settings import Settings, SettingsError


class Limits:
    """File descriptors of a process that is not this one."""

    def __init__(self, soft: int, hard: int, *, is_fixed: bool = False) -> None:
        self.both = (soft, hard)
        self._is_fixed = is_fixed

    def get(self, which: int) -> tuple[int, int]:
        """As the system's."""
        assert which == resource.RLIMIT_NOFILE
        return self.both

    def set(self, which: int, both: tuple[int, int]) -> None:
        """As the system's, with its refusals."""
        assert which == resource.RLIMIT_NOFILE
        if self._is_fixed or (self.both[1] != resource.RLIM_INFINITY and both[0] > self.both[1]):
            raise ValueError
        self.both = both


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Limits]:
    """Makes the process have other limits."""

    def limit(soft: int, hard: int, **more: bool) -> Limits:
        made = Limits(soft, hard, **more)
        monkeypatch.setattr(resource, "getrlimit", made.get)
        monkeypatch.setattr(resource, "setrlimit", made.set)
        return made

    return limit


def limit_of(**settings: Any) -> int:
    """The limit that is in force."""
    made = build_entrance(Settings(**settings), time.monotonic)
    return made.door.max_in_flight


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 1_048_576, 4096),
        (1024, resource.RLIM_INFINITY, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096),
        (1024, 1024, 256),
        (1024, 4096, 1280),
        (100, 100, 1),
    ],
)
def test_automatic_limit(limited: Any, soft: int, hard: int, expected: int) -> None:
    """4096, or a third of what descriptors are left; the soft limit is raised to the hard one."""
    limits = limited(soft, hard)
    assert limit_of() == expected
    if resource.RLIM_INFINITY not in (soft, hard):
        assert limits.both == (hard, hard)


def test_limit_that_may_not_be_raised(limited: Any) -> None:
    """What is there is what there is."""
    limited(1024, 1_048_576, is_fixed=True)
    assert limit_of() == 256


@pytest.mark.parametrize(
    ("asked", "is_warned"), [(-1, True), (0, True), (200, False), (5000, True), (256, False)]
)
def test_too_few_descriptors_are_warned_of(
    limited: Any, capsys: pytest.CaptureFixture[str], asked: int, is_warned: bool
) -> None:
    """A limit that was asked for stands, however few there are."""
    limited(1024, 1024)
    configure("warn", is_json=False)
    settings = Settings(max_concurrent_requests=asked)
    made = build_entrance(settings, time.monotonic)
    log_entrance(settings, made)
    assert made.door.max_in_flight == (256 if asked < 0 else asked)
    assert ("few file descriptors" in capsys.readouterr().err) == is_warned


def test_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """One sentence that names the flag and the file."""
    path = tmp_path / "keys"
    path.write_text("team-a\n")
    with pytest.raises(SettingsError, match=f"--api-keys-file {path}: line 1: "):
        build_entrance(Settings(api_keys_file=str(path)), time.monotonic)
    path.write_text("team-a:sk-0123456789\n")
    with pytest.raises(SettingsError, match="given twice"):
        build_entrance(Settings(api_keys_file=str(path), api_key="sk-0123456789"), time.monotonic)


def test_rates() -> None:
    """None unless asked for; a burst is a second's worth unless asked for, and one at least."""
    made = build_entrance(Settings(), time.monotonic)
    assert made.key_rate is made.total_rate is None
    for settings, n_at_once in (
        ({"key_rate_limit": 5.0}, 5),
        ({"key_rate_limit": 0.1}, 1),
        ({"key_rate_limit": 5.0, "key_rate_burst": 20}, 20),
    ):
        made = build_entrance(Settings(**settings), lambda: 0.0)  # type: ignore[arg-type]
        assert made.key_rate is not None
        n_passed = 0
        while not made.key_rate.wait_s("a"):
            made.key_rate.take("a")
            n_passed += 1
        assert n_passed == n_at_once

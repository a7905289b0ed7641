"""The application is made when it is asked for, and its loops end with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import app.main
from app.lifespan import _keep_running
from app.settings import Settings


class Log:
    """Notes what was logged as an exception."""

    def __init__(self) -> None:
        self.loops: list[str] = []

    def exception(self, event: str, *, loop: str) -> None:
        self.loops.append(loop)


def test_unknown_name_is_an_attribute_error() -> None:
    """AttributeError, as of any module, for a name that is not `app`."""
    with pytest.raises(AttributeError):
        _ = app.main.nothing


def test_wrong_environment_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one sentence naming the variable, no traceback."""
    monkeypatch.setenv("TANDEM_PORT", "70000")
    with pytest.raises(SystemExit) as caught:
        _ = app.main.app
    assert caught.value.code == 2
    assert "TANDEM_PORT" in capsys.readouterr().err


async def test_start_and_end_with_an_unreachable_worker() -> None:
    """The worker is registered at once, and the end is not held up by it."""
    made = app.main.create_app(Settings(decode=("http://127.0.0.1:9",), log_level="error"))
    gateway = made.state.gateway
    async with asyncio.timeout(5):
        async with made.router.lifespan_context(made):
            (worker,) = gateway.registry.workers()
            assert worker.spec.url == "http://127.0.0.1:9"
    assert gateway.life.is_ending


@pytest.mark.parametrize(
    ("settings", "is_warned"),
    [({}, True), ({"api_key": "k"}, False), ({"host": "127.0.0.1"}, False)],
)
async def test_open_administration_is_warned_of(
    capsys: pytest.CaptureFixture[str], settings: dict[str, Any], is_warned: bool
) -> None:
    """At start, where more than this machine could reach it."""
    made = app.main.create_app(Settings(log_level="warn", **settings))
    async with made.router.lifespan_context(made):
        pass
    line = "no key: everyone who reaches 0.0.0.0:30000 may use and administer it"
    assert (line in capsys.readouterr().err) == is_warned


async def test_failed_loop_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that failed once is logged and runs a second time."""
    monkeypatch.setattr("app.lifespan.RESTART_S", 0)
    runs: list[int] = []

    async def run() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise RuntimeError

    log: Any = Log()
    await _keep_running("drain", run, log)
    assert (runs, log.loops) == ([0, 1], ["drain"])

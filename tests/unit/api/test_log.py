"""Log lines are one format, whoever writes them."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import structlog

from app.observability.log import configure, get_logger, is_info_shown
from app.observability.quick_info import QuickInfo, UtcText, write_info


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_from_both_loggers() -> None:
    """Our logger and the standard one give JSON objects with level and time."""
    out = io.StringIO()
    configure("info", is_json=True, stream=out)
    get_logger("demo").info("hello", n=1)
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
    ours, theirs = (orjson.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["n"], ours["part"], ours["level"]) == ("hello", 1, "demo", "info")
    assert (theirs["event"], theirs["level"]) == ("from uvicorn", "warning")
    assert ours["time"].endswith("Z")


def test_level_filters_and_a_second_call_replaces_the_first() -> None:
    """Only the error is written, once and to the second stream."""
    first, second = io.StringIO(), io.StringIO()
    configure("info", is_json=False, stream=first)
    configure("error", is_json=False, stream=second)
    get_logger("demo").info("quiet")
    logging.getLogger("x").error("loud")
    assert first.getvalue() == ""
    assert second.getvalue().count("loud") == 1
    assert "quiet" not in second.getvalue()


def test_exception_text_is_in_the_json() -> None:
    """The traceback stands in the line's exception entry."""
    out = io.StringIO()
    configure("info", is_json=True, stream=out)
    try:
        raise ValueError("bad")
    except ValueError:
        get_logger("demo").exception("failed")
    assert "ValueError: bad" in orjson.loads(out.getvalue())["exception"]


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", True), ("warn", False)])
def test_info_is_shown_up_to_info(level: str, shown: bool) -> None:
    """Info lines are shown at debug and info only."""
    assert is_info_shown(level) is shown


def test_text_line_cannot_be_forged() -> None:
    """One line, the newline escaped, though a value tries to start another."""
    out = io.StringIO()
    configure("info", is_json=False, stream=out)
    get_logger("access").info("request", path="/a\nfake error line", status=200)
    (line,) = out.getvalue().splitlines()
    assert line.endswith(r"info     request part=access path='/a\nfake error line' status=200")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_traceback_on_a_terminal_shows_no_values() -> None:
    """The traceback is there; the variables of its frames, which may be keys, are not."""
    out = Terminal()
    configure("info", is_json=False, stream=out)

    def fail(key: str) -> None:
        raise ValueError(f"a key of {len(key)} letters")

    words = ["not", "to", "be", "shown"]
    try:
        fail("-".join(words))
    except ValueError:
        get_logger("demo").exception("failed")
    assert "ValueError: a key of 15 letters" in out.getvalue()
    assert "not-to-be-shown" not in out.getvalue()


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("process", ["", "pipe-1"])
def test_the_short_way_writes_the_same(is_json: bool, process: str) -> None:
    """Byte for byte what the long way writes, but for the time."""
    out = io.StringIO()
    configure("info", is_json=is_json, stream=out, process=process)
    log = get_logger("access")
    fields = {"n": 1, "text": "a\nb ü", "none": None, "path": Path("/x"), "share": 0.25}
    assert isinstance(log, QuickInfo)
    write_info(log, "request", fields)
    log.info("request", **fields)
    lines = out.getvalue().splitlines()
    quick, slow = (re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "now", line) for line in lines)
    assert quick == slow
    assert ("pipe-1" in quick) is bool(process)


def test_where_there_is_no_short_way_the_long_one_is_taken() -> None:
    """A terminal's colours are structlog's; a level that hides info lines hides them all."""
    out = Terminal()
    configure("info", is_json=False, stream=out)
    write_info(get_logger("x"), "request", {"n": 1})
    assert "request" in out.getvalue()
    hidden = io.StringIO()
    configure("warn", is_json=True, stream=hidden)
    write_info(get_logger("x"), "request", {"n": 1})
    assert hidden.getvalue() == ""


@pytest.mark.parametrize("unix_us", [0, 1, 999_999, 1_700_000_000_000_000, 1_795_484_608_120_000])
def test_the_time_is_that_of_datetime(unix_us: int) -> None:
    """The fraction is left out where it is nought, and has six digits otherwise."""
    told = UtcText()
    for later_us in (0, 7, 1_000_000):
        us = unix_us + later_us
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
        assert told(us * 1000 + 999) == at.isoformat().replace("+00:00", "Z")

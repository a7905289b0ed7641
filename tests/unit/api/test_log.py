"""Log lines are one format, whoever writes them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from app.observability.log import configure, get_logger, is_info_shown


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

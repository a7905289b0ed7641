"""The line of a request past structlog's chain: the same bytes at a third of the cost.

Each request writes one. Of what structlog spends on a line most goes to carrying the event through
the chain and to its time; both are the same for every line.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog import BoundLoggerBase
    from structlog.typing import FilteringBoundLogger

    Event = MutableMapping[str, Any]


class UtcText:
    """Tells the time of day as ISO 8601, as ``datetime.isoformat`` does; from any thread."""

    def __init__(self) -> None:
        self._last = -1, ""
        """A second, and its text."""

    def __call__(self, unix_ns: int = 0) -> str:
        """Returns now, or the time that is given."""
        second, us = divmod((unix_ns or time.time_ns()) // 1000, 1_000_000)
        known, text = self._last
        if second != known:
            text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._last = second, text
        return f"{text}.{us:06d}Z" if us else f"{text}Z"

    def stamp(self, _logger: Any, _method: str, event: Event) -> Event:
        """Adds it to an event, as one of structlog's processors."""
        event["time"] = self()
        return event


class QuickInfo:
    """Has the short way: part of the class of loggers that info lines are written by."""

    _context: dict[str, Any]
    _logger: Any
    render: ClassVar[Callable[[dict[str, Any]], str]]
    """Makes the line of an event."""
    now_text: ClassVar[UtcText]
    process: ClassVar[str]
    """Stands in each line, if it has a name."""

    def write_info(self, event: str, fields: dict[str, Any]) -> None:
        """Writes a line; what ``info(event, **fields)`` writes."""
        line = {**self._context, **fields}
        line["event"] = event
        line["level"] = "info"
        line["time"] = self.now_text()
        if self.process:
            line["process"] = self.process
        self._logger.msg(type(self).render(line))


def with_quick_info(
    slow: type[BoundLoggerBase],
    render: Callable[[dict[str, Any]], str],
    now_text: UtcText,
    process: str,
) -> type[BoundLoggerBase]:
    """Returns a class of loggers whose info lines can take the short way.

    Args:
        slow: structlog's own class, which shows info lines.
        render: As of :class:`QuickInfo`, like the following ones.
        now_text: The time.
        process: Which of several processes this is.
    """
    has = {"render": staticmethod(render), "now_text": now_text, "process": process}
    return type("BoundLogger", (QuickInfo, slow), has)


def write_info(log: FilteringBoundLogger, event: str, fields: dict[str, Any]) -> None:
    """Writes an info line, by the short way if there is one."""
    if isinstance(log, QuickInfo):
        log.write_info(event, fields)
    else:
        log.info(event, **fields)

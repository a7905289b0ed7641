"""Log lines on standard error, as JSON or for a terminal.

Our own parts log through structlog; libraries that use :mod:`logging` (uvicorn) are rendered by
the same processors, so that one process writes one format.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import orjson
import structlog

from app.observability.notes import OK, Notes
from app.observability.phases import PHASES, phases
from app.observability.quick_info import UtcText, with_quick_info

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


_PHASE_FIELDS = {name: f"{name}_ms" for name in PHASES}


class _RootHandler(logging.StreamHandler[TextIO]):
    """Marks the one handler that :func:`configure` owns, so that a second call replaces it."""


def _dump_json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _render_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return _text_of(event)


def _text_of(event: MutableMapping[str, Any]) -> str:
    """Renders ``time level event key=value``: structlog's own costs five times as much a line."""
    head = f"{event.pop('time')} {event.pop('level'):<8} {event.pop('event')}"
    exception = event.pop("exception", None)
    words = [head]
    for key, value in event.items():
        text = str(value)
        words.append(
            f"{key}={text!r}" if " " in text or not text.isprintable() else f"{key}={text}"
        )
    line = " ".join(words)
    return f"{line}\n{exception}" if exception else line


def configure(
    level: str, *, is_json: bool, stream: TextIO | None = None, process: str = ""
) -> None:
    """Sets up logging for the whole process; the last call wins.

    Args:
        level: One of :data:`LEVELS`; an unknown word means ``info``.
        is_json: One JSON object a line instead of readable columns.
        stream: Where lines go; standard error when left out.
        process: Which of several processes this is; stands in every line.
    """
    out = stream if stream is not None else sys.stderr
    threshold = LEVELS.get(level.lower(), logging.INFO)
    last: list[Any]
    render: Callable[[dict[str, Any]], str] | None = None
    now_text = UtcText()
    shared: list[Any] = [
        structlog.processors.add_log_level,
        now_text.stamp,
    ]
    if process:
        shared.append(lambda _logger, _method, event: event | {"process": process})
    if is_json:
        render = _dump_json
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump_json)]
    elif out.isatty():
        last = [
            structlog.dev.ConsoleRenderer(
                colors=True,
                timestamp_key="time",
                # rich would print every local: keys, headers, bodies.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    else:
        render = _text_of
        last = [structlog.processors.format_exc_info, _render_text]
    bound: Any = structlog.make_filtering_bound_logger(threshold)
    if render is not None and threshold <= logging.INFO:
        bound = with_quick_info(bound, render, now_text, process)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=bound,
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(out, threshold, shared, last)


def _configure_libraries(out: TextIO, threshold: int, shared: list[Any], last: list[Any]) -> None:
    handler = _RootHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in [entry for entry in root.handlers if isinstance(entry, _RootHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    # We write our own access line; uvicorn asks `hasHandlers()` before it writes its.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    # One line for every probe would drown the rest.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def request_fields(notes: Notes) -> dict[str, Any]:
    """Returns what the line of a request says of it, in order; nothing of any text in it.

    A generation has its model, pair, tokens, outcome and the milliseconds of its phases
    (:mod:`app.observability.phases`), which add up to ``duration_ms``.
    """
    fields: dict[str, Any] = {}
    if notes.route:
        _add_generation(fields, notes)
    elif notes.outcome:
        fields["outcome"] = notes.outcome
    if notes.cause:
        fields["leg"] = notes.leg
        fields["cause"] = notes.cause
    if notes.detail:
        fields["detail"] = notes.detail
    if notes.no_retry:
        fields["no_retry"] = notes.no_retry
    fields["status"] = notes.status
    fields["duration_ms"] = _ms(notes.ended_s - notes.arrived_s)
    fields["request_id"] = notes.request_id
    return fields


def _add_generation(fields: dict[str, Any], notes: Notes) -> None:
    fields["model"] = notes.model
    fields["stream"] = notes.is_stream
    if notes.prefill is not None and notes.decode is not None:
        fields["prefill"] = notes.prefill.spec.url
        fields["decode"] = notes.decode.spec.url
        fields["attempts"] = notes.n_attempts
        if notes.reason is not None:
            fields["route"] = notes.reason.text(with_urls=False)
    elif notes.alone is not None:
        worker, fields["alone"] = notes.alone
        fields["worker"] = worker.spec.url
        fields["attempts"] = notes.n_attempts
    if notes.slo_class:
        fields["slo_class"] = notes.slo_class
    if notes.n_prompt is not None:
        fields["prompt_tokens"] = notes.n_prompt
    if notes.n_cached is not None:
        fields["cached_tokens"] = notes.n_cached
    if notes.n_completion is not None:
        fields["completion_tokens"] = notes.n_completion
    fields["outcome"] = notes.outcome or OK
    for name, spent_s in phases(notes):
        fields[_PHASE_FIELDS[name]] = int(spent_s * 1_000_000 + 0.5) / 1000  # _ms


def _ms(spent_s: float) -> float:
    """Whole microseconds, as milliseconds; a third of what ``round`` takes."""
    return int(spent_s * 1_000_000 + 0.5) / 1000


def is_info_shown(level: str) -> bool:
    """Whether lines of level info are written; callers skip building them otherwise."""
    return LEVELS.get(level.lower(), logging.INFO) <= logging.INFO


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Returns a bound logger whose lines carry ``part=name``; call after :func:`configure`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(part=name)
    return logger

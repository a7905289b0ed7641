"""The doctor's report: for people, and for scripts."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from app import __version__
from app.doctor.finding import Finding, Severity, exit_code
from app.doctor.reading import Reading

_WIDTH = 100
_MAX_PLACES = 6
_REPORT_VERSION = 1
"""Grows when a member changes its meaning; new members may come without."""
_COLUMNS = ("role", "url", "engine", "model", "page", "tp", "dp", "state")


def as_report(readings: Sequence[Reading], findings: Sequence[Finding]) -> str:
    """Write the report for people."""
    rows = [_COLUMNS, *(_row(reading) for reading in readings)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    lines = [
        "  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join((*lines, "", *map(_paragraph, findings), _summary(findings), ""))


def _row(reading: Reading) -> tuple[str, ...]:
    info = reading.info
    state = "ready" if reading.probe.ok else "not ready" if reading.is_reachable else "unreachable"
    cells: list[object] = [reading.spec.role, reading.url, reading.spec.engine]
    if info is None:
        cells += ["?"] * 4
    else:
        cells[-1] = f"{reading.spec.engine} {info.version or '?'}"
        cells += [", ".join(reading.model_ids) or "any", info.page_size or "?"]
        cells += [info.labels.get("tp_size", "?"), info.dp_size]
    return tuple(_clean(str(cell)) for cell in (*cells, state))


def _paragraph(found: Finding) -> str:
    lines = [
        f"{found.severity.upper():8}{found.code}",
        *_wrapped("", found.problem),
    ]
    if found.places:
        lines += _wrapped("where  ", _places(found.places))
    lines += _wrapped("do     ", found.remedy)
    return "\n".join((*lines, ""))


def _wrapped(word: str, text: str) -> list[str]:
    return textwrap.wrap(
        _clean(text),
        _WIDTH,
        initial_indent=f"  {word}",
        subsequent_indent="  " + " " * len(word),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _places(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_MAX_PLACES])
    n_more = len(places) - _MAX_PLACES
    return f"{shown} and {n_more} more" if n_more > 0 else shown


def _summary(findings: Iterable[Finding]) -> str:
    n_of = Counter(found.severity for found in findings)
    if not n_of:
        return "Nothing found."
    parts = [
        f"{n_of[severity]} {severity}{'' if n_of[severity] == 1 else 's'}"
        for severity in Severity
        if n_of[severity]
    ]
    return f"{', '.join(parts)}."


def _clean(text: str) -> str:
    """Take out what a worker could do to a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def as_json(readings: Sequence[Reading], findings: Sequence[Finding]) -> str:
    """Write the report for scripts: one JSON object."""
    report = {
        "report_version": _REPORT_VERSION,
        "tandem_version": __version__,
        "exit_code": exit_code(findings),
        "workers": [_worker(reading) for reading in readings],
        "findings": [
            {
                "severity": found.severity,
                "code": found.code,
                "problem": found.problem,
                "remedy": found.remedy,
                "places": found.places,
            }
            for found in findings
        ],
    }
    return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n"


def _worker(reading: Reading) -> dict[str, Any]:
    info = reading.info
    shown: dict[str, Any] = {
        "url": reading.url,
        "worker_type": reading.spec.role,
        "engine": reading.spec.engine,
        "is_reachable": reading.is_reachable,
        "is_ready": reading.probe.ok,
        "took_s": round(reading.took_s, 3),
        "faults": dict(reading.faults),
    }
    if info is not None:
        shown |= {
            "models": reading.model_ids,
            "version": info.version,
            "page_size": info.page_size,
            "dp_size": info.dp_size,
            "context_length": info.context_length,
            "bootstrap_port": reading.bootstrap_port,
        }
    if reading.keep_alive is not None:
        shown["keep_alive_s"] = (
            round(reading.keep_alive.watched_s, 2) if reading.keep_alive.is_closed else None
        )
    return shown

"""What the doctor found: how bad it is, what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is; the worst first."""

    ERROR = "error"
    """Requests fail, or a worker gets none, or answers may be wrong."""
    WARNING = "warning"
    """Requests are slow, or fail now and then, or will when something changes."""
    NOTE = "note"
    """Worth knowing; nothing has to be done."""


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: How bad it is.
        code: Stable snake_case word, for scripts.
        problem: One or two sentences; names no worker, so that the same thing found on several
            workers is said once.
        remedy: What to do, sentences.
        places: URLs of workers, or ``prefill -> decode`` of pairs; empty: the whole fleet.
    """

    severity: Severity
    code: str
    problem: str
    remedy: str
    places: tuple[str, ...] = ()


def error(code: str, problem: str, remedy: str, *places: str) -> Finding:
    """Make a finding of that severity."""
    return Finding(Severity.ERROR, code, problem, remedy, places)


def warning(code: str, problem: str, remedy: str, *places: str) -> Finding:
    """Make a finding of that severity."""
    return Finding(Severity.WARNING, code, problem, remedy, places)


def note(code: str, problem: str, remedy: str, *places: str) -> Finding:
    """Make a finding of that severity."""
    return Finding(Severity.NOTE, code, problem, remedy, places)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Say what was found in several places once; the worst first, else as found."""
    places: dict[tuple[Severity, str, str, str], dict[str, None]] = {}
    for found in findings:
        key = (found.severity, found.code, found.problem, found.remedy)
        places.setdefault(key, {}).update(dict.fromkeys(found.places))
    whole = [Finding(*key, tuple(where)) for key, where in places.items()]
    return tuple(sorted(whole, key=lambda found: _ORDER.index(found.severity)))


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 2 with errors, 1 with warnings, else 0: notes alone are no reason to stop."""
    severities = {found.severity for found in findings}
    if Severity.ERROR in severities:
        return 2
    return 1 if Severity.WARNING in severities else 0

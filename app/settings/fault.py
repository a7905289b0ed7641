"""What is wrong with the settings, as one sentence that names flag or variable and value.

Pure: ``settings`` calls it with pydantic's findings and with the names it met.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from app.settings.values import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic_core import ErrorDetails

# What Kubernetes puts into every container for a Service that is called "tandem".
_SERVICE_LINK = re.compile(r"TANDEM_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")

_KINDS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "must be a path that starts with /",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


class SettingsError(Exception):
    """The settings cannot be used; the text is one sentence for the operator."""


def sentence(
    error: ErrorDetails,
    *,
    names: Mapping[str, str],
    bounds: Mapping[str, tuple[object, object]],
    secret: Iterable[str],
) -> str:
    """Say what is wrong.

    Args:
        error: One finding of pydantic.
        names: How each given field was written: ``--port``, ``TANDEM_PORT=``.
        bounds: Least and greatest value of the fields that have both.
        secret: Fields whose value is never shown.
    """
    context = error.get("ctx", {})
    fault = context.get("error")
    field = str(error["loc"][0]) if error["loc"] else ""
    value, text = str(error["input"]), error["msg"]
    if isinstance(fault, Fault):
        field, value, text = fault.field or field, fault.value, fault.text
    elif error["type"] in _KINDS:
        text = _KINDS[error["type"]].format(**context)
        if field in bounds and error["type"] != "string_pattern_mismatch":
            text = "must be a number from {} to {}".format(*bounds[field])
    # A URL with an @ may hold a password.
    shown = "" if field in secret or "@" in value else value
    name = names.get(field, field)
    gap = "" if name.endswith("=") or not shown else " "
    return f"{name}{gap}{shown}: {text}."


def stray_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return a warning for each ``TANDEM_`` name that is no setting, with the likely one."""
    warnings = []
    for name in names:
        if name in known or _SERVICE_LINK.fullmatch(name):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        warnings.append(f"{name} is not a setting and has no effect{hint}")
    return warnings


def is_service_link(name: str, value: str) -> bool:
    """Tell Kubernetes' ``TANDEM_PORT=tcp://10.0.0.1:80`` from an operator's port."""
    return _SERVICE_LINK.fullmatch(name) is not None and value.startswith(("tcp://", "udp://"))

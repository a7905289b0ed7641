"""The settings of whose requests go first in the prefill queue."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.scheduling.standing import SloClass, StandingRules
from app.settings.values import Fault, Knob

_QUEUE = "Prefill queue"
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_FORM = "takes name=NAME[,ttft-ms=N][,priority=N][,deadline-secs=N][,key=ID]..."
_MAX_PRIORITY = 100
_MAX_S = 31_536_000


def read_classes(value: object) -> tuple[SloClass, ...]:
    """Reads classes written as ``name=fast,ttft-ms=500 name=slow,priority=-1``."""
    items = value.replace(";", " ").split() if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise Fault(_FORM, value=repr(items))
    words = [word for item in items for word in (item.split() if isinstance(item, str) else [item])]
    classes = tuple(word if isinstance(word, SloClass) else _class_of(word) for word in words)
    names: set[str] = set()
    keys: set[str] = set()
    for one in classes:
        if one.name in names:
            raise Fault("this class is given twice", value=one.name)
        if keys & one.keys:
            raise Fault("this key has two classes", value=min(keys & one.keys))
        names.add(one.name)
        keys |= one.keys
    return classes


def _class_of(text: str) -> SloClass:
    found: dict[str, str] = {}
    keys = []
    for part in filter(None, text.split(",")):
        field, separator, given = part.partition("=")
        if not separator or field not in ("name", "ttft-ms", "priority", "deadline-secs", "key"):
            raise Fault(_FORM, value=part)
        if field in ("name", "key") and not _NAME.fullmatch(given):
            raise Fault(f"{field} has 1 to 64 letters, digits, '.', '_', '-', '@'", value=given)
        if field == "key":
            keys.append(given)
        elif field in found:
            raise Fault(f"{field} is given twice", value=text)
        else:
            found[field] = given
    if "name" not in found:
        raise Fault(_FORM, value=text)
    priority = _number(found.get("priority", "0"), -_MAX_PRIORITY, _MAX_PRIORITY)
    if priority != int(priority):
        raise Fault("a priority is a whole number", value=found["priority"])
    return SloClass(
        found["name"],
        int(priority),
        _positive(found["ttft-ms"]) / 1000 if "ttft-ms" in found else math.inf,
        _positive(found["deadline-secs"]) if "deadline-secs" in found else math.inf,
        frozenset(keys),
    )


def _positive(text: str) -> float:
    number = _number(text, 0, _MAX_S * 1000)
    if not number:
        raise Fault("must be more than 0", value=text)
    return number


def _number(text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise Fault(f"must be a number from {least} to {most}", value=text)
    return number


def read_header(value: object) -> object:
    """Reads the name of a header into lower case."""
    if not isinstance(value, str) or not _HEADER.fullmatch(value):
        raise Fault("must be the name of a header", value=str(value))
    return value.lower()


def read_share_by(value: object) -> object:
    """Reads ``key``, ``none`` or ``header:NAME``."""
    if value in ("key", "none"):
        return value
    kind, _, name = str(value).partition(":")
    if kind != "header":
        raise Fault("must be key, none or header:NAME", value=str(value))
    return f"header:{read_header(name)}"


class StandingSettings(BaseSettings):
    """Shares and classes; part of ``Settings``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prefill_queue_share_by: Annotated[
        str,
        BeforeValidator(read_share_by),
        Knob(
            _QUEUE,
            "Between whom prefill is shared by tokens: key, the API keys; header:NAME, the values "
            "of a header that a proxy sets; none",
            metavar="key|none|header:NAME",
        ),
    ] = "key"
    slo_class: Annotated[
        tuple[SloClass, ...],
        BeforeValidator(read_classes),
        Knob(
            _QUEUE,
            "A class of requests: name=NAME and of ttft-ms=N (aimed at), priority=N (higher goes "
            "earlier), deadline-secs=N (else refused), key=ID (whose it is) any; repeatable",
            metavar="FIELDS",
        ),
    ] = ()
    slo_class_header: Annotated[
        str,
        BeforeValidator(read_header),
        Knob(_QUEUE, "Header by which a request asks for a class", metavar="HEADER"),
    ] = "x-slo-class"

    @property
    def standing_rules(self) -> StandingRules:
        """Tells a request's key and class."""
        kind, _, header = self.prefill_queue_share_by.partition(":")
        return StandingRules(
            self.slo_class,
            class_header=self.slo_class_header,
            share_header=header or None,
            is_shared=kind != "none",
        )

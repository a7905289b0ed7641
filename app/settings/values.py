"""Values of the settings that are more than a number: worker URLs, names, and how they are read.

Used by ``settings`` only. A wrong value raises ``Fault``, a ``ValueError`` that carries the
part of the value at fault, so that the message at start can show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.policies.catalog import POLICIES
from app.workers.urls import Identity, normalise_url, overlap, split_rank, url_identity, with_rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SMG_ONLY_POLICIES = ("passthrough",)
LOG_LEVELS = ("debug", "info", "warn", "error")
_GRPC = ("grpc", "grpcs")


@dataclass(frozen=True, slots=True)
class Knob:
    """What flag, environment name and page need to know of a setting beside its type.

    Attributes:
        group: Heading under which ``--help`` shows it.
        text: What it does, one line without a full stop.
        unit: Unit of the value, empty for words and counts.
        metavar: Placeholder of the value in ``--help``.
        name: Its name outside the code, if SMG's flag differs from the field's name.
        aliases: Further flags with the same meaning.
    """

    group: str
    text: str
    unit: str = ""
    metavar: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrefillUrl:
    """A prefill worker as the operator writes it: normalised URL and bootstrap port, if given."""

    url: str
    bootstrap_port: int | None = None


class Fault(ValueError):
    """A wrong value.

    Args:
        text: What is wrong, the end of a sentence.
        value: The part of the value that is at fault.
        field: The field at fault, when the check sees more than one.
    """

    def __init__(self, text: str, *, value: str, field: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.value = value
        self.field = field


def worker_url(text: str) -> str:
    """Normalise a worker URL; a wrong one becomes a ``Fault``."""
    try:
        url, rank = split_rank(text)
        return with_rank(normalise_url(url), rank)
    except ValueError as exc:
        message = str(exc).rstrip(".")
        raise Fault(message[:1].lower() + message[1:], value=text) from None


def read_prefill(value: object) -> tuple[PrefillUrl, ...]:
    """Read ``"URL PORT, URL"``, or a sequence of such items or of their words."""
    items = value.split(",") if isinstance(value, str) else value
    return tuple(_prefill_item(item) for item in _some(items))


def _prefill_item(item: object) -> PrefillUrl:
    if isinstance(item, PrefillUrl):
        return PrefillUrl(worker_url(item.url), item.bootstrap_port)
    words = item.split() if isinstance(item, str) else [str(word) for word in _sequence(item)]
    written = " ".join(words)
    if not 1 <= len(words) <= 2:
        raise Fault("takes URL [PORT|none]", value=written)
    return PrefillUrl(worker_url(words[0]), _bootstrap_port(words[1:], written))


def _bootstrap_port(words: Sequence[str], written: str) -> int | None:
    if not words or words[0].lower() == "none":
        return None
    if not words[0].isascii() or not words[0].isdigit() or not 1 <= int(words[0]) <= 65535:
        raise Fault(
            f'the bootstrap port {words[0]!r} must be from 1 to 65535, or "none"', value=written
        )
    return int(words[0])


def read_urls(value: object) -> tuple[str, ...]:
    """Read worker URLs from a text that separates them by commas or spaces, or a sequence."""
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    return tuple(worker_url(str(item)) for item in _some(items))


def _some(items: object) -> Iterable[object]:
    """Items without the empty texts that a trailing comma leaves."""
    return [i for i in _sequence(items) if not (isinstance(i, str) and not i.strip())]


def _sequence(items: object) -> Sequence[object]:
    if not isinstance(items, (list, tuple)):
        raise Fault("takes worker URLs", value=repr(items))
    return items


def read_policy(value: object) -> object:
    """Refuse a policy that is not in the catalogue, with the names that are."""
    if value is None or value in POLICIES:
        return value
    known = ", ".join(POLICIES)
    if value in SMG_ONLY_POLICIES:
        raise Fault(f"this version does not have that policy; it has {known}", value=str(value))
    raise Fault(f"no such policy; choose from {known}", value=str(value))


def read_log_level(value: object) -> object:
    """Accept a level in any case, and ``warning`` for ``warn``."""
    level = str(value).strip().lower()
    level = "warn" if level == "warning" else level
    if level not in LOG_LEVELS:
        raise Fault(f"must be one of {', '.join(LOG_LEVELS)}", value=str(value))
    return level


def read_optional_port(value: object) -> object:
    """Read ``none`` as no port at all."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def check_workers(by_field: dict[str, Sequence[str]]) -> None:
    """Refuse a fleet that cannot work, whatever way it was given.

    Args:
        by_field: Normalised URLs by field: prefill, decode, worker_urls.

    Raises:
        Fault: The same worker twice; gRPC beside HTTP in one pair group.
    """
    seen: dict[Identity, str] = {}
    for field, urls in by_field.items():
        for url in urls:
            identity = url_identity(url)
            taken_by = {known for other, known in seen.items() if overlap(identity, other)}
            if field in taken_by:
                raise Fault("the same worker is given twice", value=url, field=field)
            if taken_by:
                other = taken_by.pop().replace("_", "-")
                raise Fault(f"the same worker is also in --{other}", value=url, field=field)
            seen[identity] = field
    _check_engines({f: by_field[f] for f in ("prefill", "decode")})


def _check_engines(by_field: dict[str, Sequence[str]]) -> None:
    """A pair hands its KV cache over in one protocol: SGLang's or vLLM's."""
    first = next((url for urls in by_field.values() for url in urls), "")
    for field, urls in by_field.items():
        for url in urls:
            if url.startswith(_GRPC) != first.startswith(_GRPC):
                raise Fault(
                    f"gRPC (vLLM) and HTTP (SGLang) workers cannot form a pair, and {first} "
                    "is of the other kind",
                    value=url,
                    field=field,
                )

"""Whose request it is and how urgent: what the queue orders by beside the work itself."""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import InvalidRequest, KeyNotAllowed

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEYED_HASH = hashlib.blake2b(digest_size=12, key=secrets.token_bytes(32))
DEFAULT_CLASS = "default"
_MAX_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class SloClass:
    """What requests of one kind are promised, or worth.

    Attributes:
        name: As clients ask for it.
        priority: Higher ones go earlier; 0 is that of requests without a class.
        ttft_s: The time to first token that is aimed at.
        deadline_s: The time to first token after which an answer is worth nothing.
        keys: The API keys (by name) that have this class; empty: everyone may ask for it.
    """

    name: str
    priority: int = 0
    ttft_s: float = math.inf
    deadline_s: float = math.inf
    keys: frozenset[str] = frozenset()


NO_CLASS = SloClass("")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the queue knows of a request beside the request.

    Attributes:
        key: Whom it is counted to; never a key in plain.
        slo: Its class.
    """

    key: str = ""
    slo: SloClass = NO_CLASS


ANYBODY = Standing()


class StandingRules:
    """Reads a request's standing from its API key's name and its headers.

    Args:
        classes: The classes there are.
        class_header: The header that names one, lower case.
        share_header: The header whose values share the ranks, lower case; ``None``: the API keys
            do.
        is_shared: Whether anybody shares at all; else first come is all there is between keys.
    """

    def __init__(
        self,
        classes: Sequence[SloClass] = (),
        *,
        class_header: str = "x-slo-class",
        share_header: str | None = None,
        is_shared: bool = True,
    ) -> None:
        self._classes = {one.name: one for one in classes}
        self._of_key = {key: one for one in classes for key in one.keys}
        self._default = self._classes.get(DEFAULT_CLASS, NO_CLASS)
        self._class_header = class_header.encode()
        self._share_header = None if share_header is None else share_header.encode()
        self._is_shared = is_shared

    def read(self, key_name: str, headers: Sequence[tuple[bytes, bytes]]) -> Standing:
        """Returns a request's standing.

        A class that is asked for goes before the one of the key, that before ``default``. A class
        with keys is for them alone.

        Args:
            key_name: The name of the API key, empty if none was asked for.
            headers: The client's, names in lower case.

        Raises:
            InvalidRequest: There is no such class.
            KeyNotAllowed: The class is for other keys.
        """
        shared, asked = key_name if self._is_shared else "", None
        if self._classes or self._share_header is not None:
            for name, value in headers:
                if name == self._share_header:
                    shared = _digest(value)
                elif name == self._class_header and self._classes:
                    asked = value
        if asked is not None:
            return Standing(shared, self._asked_for(asked, key_name))
        slo = self._of_key.get(key_name, self._default)
        return Standing(shared, slo) if shared or slo is not NO_CLASS else ANYBODY

    def _asked_for(self, asked: bytes, key_name: str) -> SloClass:
        name = asked.decode("latin-1").strip()
        slo = self._classes.get(name)
        header = self._class_header.decode()
        if slo is None:
            known = ", ".join(self._classes)
            raise InvalidRequest(
                f"{header}: there is no class {name[:_MAX_SHOWN_CHARS]!r}; there are {known}.",
                code="unknown_slo_class",
            )
        if slo.keys and key_name not in slo.keys:
            raise KeyNotAllowed(
                f"{header}: the class {name!r} is not for this key.", code="slo_class_not_allowed"
            )
        return slo


def _digest(value: bytes) -> str:
    """What is kept of a header that may be anything, a credential included."""
    keyed = _KEYED_HASH.copy()
    keyed.update(value)
    return keyed.hexdigest()

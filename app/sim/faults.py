"""Faults on command: what a worker shall do wrong, where, and how often."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

N_KEPT_TAKEN = 10_000
Taken = tuple[str, float, str]


class FaultKind(StrEnum):
    """What goes wrong."""

    REFUSE = "refuse"
    """Answer ``status`` with ``body`` and ``headers``; nothing is computed."""
    HANG = "hang"
    """Never answer; an abort is noted and changes nothing."""
    RESET = "reset"
    """Reset the connection before the head."""
    CUT = "cut"
    """Let ``after_events`` events pass, then end as ``how`` says."""
    HALF_BODY = "half_body"
    """Wait ``delay_s``, announce the whole body, send half of it, and close; with ``how`` hang
    keep the connection open."""
    GARBAGE = "garbage"
    """Answer 200 with something that is neither JSON nor SSE."""
    SLOW = "slow"
    """Wait ``delay_s``, then go on as usual."""
    ABORT_FINISH = "abort_finish"
    """Finish with ``finish_reason`` abort after ``after_events`` tokens."""


class Cut(StrEnum):
    """How a stream ends in its middle."""

    RESET = "reset"
    EOF = "eof"
    """The connection closes without the end of the chunked body."""
    CLEAN = "clean"
    """The body ends as it should, without ``[DONE]``."""
    INSIDE = "inside"
    """Half of the next event, then a reset."""
    HANG = "hang"
    """Nothing more, the connection stays open."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault, used up after ``times`` requests (None: never).

    ``route`` None means every generation route; other paths such as
    ``/abort_request`` or ``/server_info`` can be named.
    """

    kind: FaultKind
    route: str | None = None
    times: int | None = 1
    status: int = 500
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_events: int = 0
    how: Cut = Cut.RESET
    delay_s: float = 0.0

    @classmethod
    def from_json(cls, order: Mapping[str, Any]) -> Fault:
        """A fault from the body of ``POST /sim/fault``.

        Raises:
            ValueError: Unknown kind, cut or field.
        """
        unknown = set(order) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        values = dict(order)
        values["kind"] = FaultKind(values.get("kind", ""))
        if "how" in values:
            values["how"] = Cut(values["how"])
        return cls(**values)


class _Counted(Protocol):
    """A fault of either engine."""

    times: int | None

    @property
    def kind(self) -> str: ...


F = TypeVar("F", bound=_Counted)


@dataclass(slots=True)
class Book(Generic[F]):
    """The faults that wait for their request, and the switch of the health probes."""

    waiting: list[F] = field(default_factory=list)
    health_down: bool = False
    taken: deque[Taken] = field(default_factory=lambda: deque(maxlen=N_KEPT_TAKEN))
    """Kind of fault, time (``time.monotonic``), what told the request from others; oldest first."""

    def add(self, fault: F) -> None:
        """Order a fault; the first one that matches is used first."""
        self.waiting.append(fault)

    def clear(self) -> None:
        """Forget every fault."""
        self.waiting.clear()
        self.health_down = False

    def _take(self, is_meant: Callable[[F], bool], key: str) -> F | None:
        """The first fault that is meant, used once."""
        for fault in self.waiting:
            if is_meant(fault):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.waiting.remove(fault)
                self.taken.append((fault.kind, time.monotonic(), key))
                return fault
        return None


class FaultBook(Book[Fault]):
    """The faults of an SGLang worker."""

    def add_json(self, order: Mapping[str, Any]) -> None:
        """Order a fault as ``POST /sim/fault`` does.

        Raises:
            ValueError: Unknown kind, cut or field.
        """
        self.add(Fault.from_json(order))

    def refuse(
        self,
        status: int,
        body: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
        route: str | None = None,
    ) -> None:
        """Short for the most usual fault."""
        self.add(
            Fault(
                kind=FaultKind.REFUSE,
                status=status,
                body=body,
                headers=headers or {},
                times=times,
                route=route,
            )
        )

    def take(self, path: str, is_generation: bool, key: str = "") -> Fault | None:
        """The fault for this request, counted; ``key`` tells the request from others."""
        return self._take(
            lambda fault: fault.route == path or (fault.route is None and is_generation), key
        )

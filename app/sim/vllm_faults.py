"""Faults on command of a simulated vLLM worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.sim.faults import Book


class VllmFaultKind(StrEnum):
    """What goes wrong; without an ``rpc`` in Generate."""

    REFUSE = "refuse"
    """End with ``status`` and ``message``; nothing is computed."""
    HANG = "hang"
    """Never answer; only a cancel ends it."""
    BREAK = "break"
    """Let ``after_messages`` pass, then end with ``status``."""
    CUT = "cut"
    """Let ``after_messages`` pass, then reset every connection; the engine lives on."""
    DIE = "die"
    """Let ``after_messages`` pass, then die like the whole process."""
    STALL = "stall"
    """Let ``after_messages`` pass, then send nothing more."""
    ERROR_FINISH = "error_finish"
    """An answer of status OK without a token, finish reason ``error`` (KV load failure)."""
    ABORT_FINISH = "abort_finish"
    """The same with finish reason ``abort``."""
    NO_COMPLETE = "no_complete"
    """End with status OK and without the last message."""
    NO_HANDOFF = "no_handoff"
    """Complete a prefill without what decode needs; its blocks stay pinned."""
    BAD_HANDOFF = "bad_handoff"
    """Complete a prefill with ``message`` as its handoff."""
    GARBAGE = "garbage"
    """Bytes that are no message."""
    WRONG_DIGEST = "wrong_digest"
    """GetTokenizer: the digest of something else."""
    SLOW = "slow"
    """Wait ``delay_s``, then go on as usual."""


@dataclass(slots=True, kw_only=True)
class VllmFault:
    """One fault, used up after ``times`` calls (None: never)."""

    kind: VllmFaultKind
    rpc: str = "Generate"
    times: int | None = 1
    status: str = "INTERNAL"
    message: str = ""
    trailing: Mapping[str, str] = field(default_factory=dict)
    after_messages: int = 0
    delay_s: float = 0.0


class VllmFaultBook(Book[VllmFault]):
    """The faults of a vLLM worker."""

    def add_json(self, order: Mapping[str, Any]) -> None:
        """Order a fault as ``POST /sim/fault`` does.

        Raises:
            ValueError: Unknown kind.
            TypeError: Unknown field.
        """
        self.add(VllmFault(**{**order, "kind": VllmFaultKind(order.get("kind", ""))}))

    def refuse(
        self,
        status: str,
        message: str = "",
        *,
        trailing: Mapping[str, str] | None = None,
        times: int | None = 1,
        rpc: str = "Generate",
    ) -> None:
        """Short for the most usual fault."""
        self.add(
            VllmFault(
                kind=VllmFaultKind.REFUSE,
                status=status,
                message=message,
                trailing=trailing or {},
                times=times,
                rpc=rpc,
            )
        )

    def take(self, rpc: str, key: str = "") -> VllmFault | None:
        """The fault for this call, counted; ``key`` tells the call from others."""
        return self._take(lambda fault: fault.rpc == rpc, key)

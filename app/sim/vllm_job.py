"""One sequence inside a simulated vLLM engine, and why an engine refuses or dies of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.sim.vllm_tokens import Plan
from app.upstream.generated import vllm_engine_pb2 as pb


class RpcRefused(Exception):
    """A call that ends with an error status."""

    def __init__(
        self, status: str, message: str, trailing: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.trailing = dict(trailing or {})


class EngineCrash(Exception):
    """An assertion of the engine: the process dies."""


class LoadFailure(Exception):
    """No KV came."""


@dataclass(slots=True, eq=False, kw_only=True)
class VllmJob:
    """What was asked, what came out so far, how it ended. ``bell`` rings at every change."""

    external_id: str
    internal_id: str
    prompt_ids: tuple[int, ...]
    params: pb.SamplingParams
    is_stream: bool
    kv: dict[str, Any]
    """The connector's parameters; empty without any."""
    rank: int = 0
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    plan: Plan | None = None
    n_said: int = 0
    """Tokens of the plan that are out."""
    n_left: int = 0
    """Prompt tokens that no step has computed yet."""
    n_cached: int = 0
    """Prompt tokens that its answer reports as cached."""
    n_held: int = 0
    """Tokens of KV cache that it occupies."""
    mark: str = ""
    """What its KV cache holds; empty until it is known."""
    finish_reason: str | None = None
    handoff_json: str | None = None
    is_dead: bool = False
    """Its worker was killed: nobody is told anything."""
    is_released: bool = False
    """Prefill was told that its blocks are free, or never will be by us."""
    on_over: Callable[[VllmJob], None] | None = None

    @property
    def is_over(self) -> bool:
        """Finished, aborted or failed."""
        return self.finish_reason is not None

    @property
    def wants_kv(self) -> bool:
        """Its KV cache is to be loaded from a prefill worker."""
        return bool(self.kv.get("do_remote_prefill"))

    @property
    def keeps_kv(self) -> bool:
        """Its KV cache is to be kept for a decode worker."""
        return bool(self.kv.get("do_remote_decode"))

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    def end(self, finish_reason: str) -> None:
        """The sequence finished; a second end changes nothing."""
        if not self.is_over:
            self.finish_reason = finish_reason
            if self.on_over is not None:
                self.on_over(self)
            self.bell.set()

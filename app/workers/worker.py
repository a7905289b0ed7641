"""What a worker is (``WorkerSpec``), what it says of itself (``WorkerInfo``), how it fares."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from app.workers.breaker import Breaker
from app.workers.probe_rules import NO_OVERRIDES, ProbeOverrides, ProbeRecord
from app.workers.states import State
from app.workers.urls import host_of, normalise_url, split_rank, with_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.clock import Clock
    from app.workers.kv_events import KvSource
    from app.workers.sglang_facts import SglangFacts
    from app.workers.vllm_facts import VllmFacts


class Role(StrEnum):
    """What part of a request a worker computes."""

    PREFILL = "prefill"
    DECODE = "decode"
    REGULAR = "regular"


class Engine(StrEnum):
    """The engine, told by the URL's scheme: http(s) is SGLang, grpc(s) is vLLM."""

    SGLANG = "sglang"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the operator says of a worker; never changed by what the worker answers.

    Attributes:
        url: Normalised when the object is made, see ``normalise_url``; of ``URL@rank`` only what
            stands before the @, so it can be connected to.
        role: The part of a request it computes.
        bootstrap_port: Port of the prefill worker's bootstrap server, 1..65535; None:
            take what the worker reports.
        model_ids: Models it serves; empty: ask the worker.
        labels: Free words of the operator.
        priority: Shown, 50 by default.
        cost: Shown, relative, above 0.
        probes: How it is probed, where that differs from the gateway's rules.
        api_key: Bearer key for every call to the worker; never printed.
        dp_rank: The only data-parallel rank that gets requests; None: all do.
        id: UUID as text.

    Raises:
        ValueError: With a sentence that names the field.
    """

    url: str
    role: Role
    bootstrap_port: int | None = None
    model_ids: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    priority: int = 50
    cost: float = 1.0
    probes: ProbeOverrides = NO_OVERRIDES
    api_key: str | None = field(default=None, repr=False)
    dp_rank: int | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        url, rank = split_rank(self.url)
        object.__setattr__(self, "url", normalise_url(url))
        if rank is not None:
            object.__setattr__(self, "dp_rank", rank)
        if self.bootstrap_port is not None and not 1 <= self.bootstrap_port <= 65535:
            raise ValueError(f"bootstrap_port must lie in 1..65535, not {self.bootstrap_port}.")
        if not self.cost > 0:
            raise ValueError(f"cost must be above 0, not {self.cost}.")

    @property
    def address(self) -> str:
        """The URL as the operator knows it: with the rank, if it has one of its own."""
        return with_rank(self.url, self.dp_rank)

    @property
    def host(self) -> str:
        """Host of the URL, IPv6 in brackets: the form sent as ``bootstrap_host``."""
        return host_of(self.url)

    @property
    def engine(self) -> Engine:
        """The engine that the scheme stands for."""
        return Engine.SGLANG if self.url.startswith("http") else Engine.VLLM


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker said of itself at its last registration; None or empty: it did not say.

    For SGLang from ``/v1/models``, ``/server_info`` and ``/model_info`` (seen with 0.5.23); for
    vLLM from GetModelInfo, GetServerInfo and GetLoads. ``page_size`` is vLLM's block size.
    """

    model_ids: tuple[str, ...] = ()
    version: str | None = None
    page_size: int | None = None
    dp_size: int = 1
    bootstrap_port: int | None = None
    schedule_policy: str | None = None
    chunked_prefill_size: int | None = None
    max_running_requests: int | None = None
    max_total_tokens: int | None = None
    disaggregation_mode: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    load_balance_method: str | None = None
    context_length: int | None = None
    vllm: VllmFacts | None = None
    sglang: SglangFacts | None = None
    kv_source: KvSource | None = None


NO_INFO = WorkerInfo()
"""The info of a worker that was not registered yet."""


def rank_conflict(spec: WorkerSpec, info: WorkerInfo) -> str:
    """Return what is wrong with a worker of one rank, or nothing."""
    if spec.dp_rank is None or spec.dp_rank < info.dp_size:
        return ""
    ranks = "1 data-parallel rank" if info.dp_size == 1 else f"{info.dp_size} data-parallel ranks"
    return f"is registered as rank {spec.dp_rank} and has {ranks}; it gets no requests."


class Worker:
    """A worker as it is now. State, info and spec are changed through the registry only.

    Args:
        spec: What the operator said.
        breaker: Its circuit breaker; a default one on ``now_s`` if left out.
        now_s: Clock in seconds.
    """

    __slots__ = (
        "_last_error",
        "_now_s",
        "added_s",
        "breaker",
        "capacity_until_s",
        "host",
        "id",
        "info",
        "is_discovered",
        "is_overdue",
        "last_error_s",
        "last_probe",
        "n_charged",
        "n_failures",
        "n_held",
        "n_leases",
        "n_successes",
        "prefix_view",
        "rank_leases",
        "spec",
        "state",
        "state_reason",
        "state_since_s",
    )

    latest_full_s: ClassVar[float] = 0.0
    """Until then some worker of this process may be full; after it none has to be looked at."""

    def __init__(
        self, spec: WorkerSpec, breaker: Breaker | None = None, now_s: Clock = time.monotonic
    ) -> None:
        self.spec = spec
        self.id = spec.id
        self.host = spec.host
        self.state = State.JOINING
        self.state_reason = "not registered yet"
        self.state_since_s = now_s()
        self.info = NO_INFO
        self.is_discovered = False
        """The worker answered a registration, so an empty model list means: serves all."""
        self.is_overdue = False
        """It has been joining for longer than a start should take; it is tried on."""
        self.breaker = breaker if breaker is not None else Breaker(now_s)
        self.n_leases = 0
        self.n_held = 0
        """Prefills that are computed and whose KV cache decode has yet to fetch: no load, but a
        reason to stay."""
        self.rank_leases = [0]
        """Leases of each data-parallel rank."""
        self.capacity_until_s = 0.0
        """Until then it said that it is full (429, 503): used only if no other is left."""
        self._now_s = now_s
        self._last_error = ""
        self.last_error_s: float | None = None
        self.added_s = now_s()
        self.last_probe: ProbeRecord | None = None
        self.n_charged = 0
        """Requests that its breaker counted as its failure."""
        self.n_failures = 0
        """Failed probes in a row."""
        self.n_successes = 0
        """Good probes in a row."""
        self.prefix_view = ""
        """How well its prefix caches are known; empty: nobody listens to its KV events."""

    def __repr__(self) -> str:
        return f"Worker({self.spec.role} {self.spec.url} {self.state})"

    @property
    def last_error(self) -> str:
        """What went wrong with it last, as a sentence; empty when it did well since."""
        return self._last_error

    @last_error.setter
    def last_error(self, text: str) -> None:
        self._note_error(text)

    def _note_error(self, text: str) -> None:
        self._last_error = text
        self.last_error_s = self._now_s() if text else None

    @property
    def load(self) -> int:
        """Requests of this gateway that are on the worker now."""
        return self.n_leases

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The operator's list if there is one, else what the worker reported."""
        return self.spec.model_ids or self.info.model_ids

    @property
    def is_wildcard(self) -> bool:
        """It was asked and named no model, so it takes any."""
        return self.is_discovered and not self.model_ids

    @property
    def bootstrap_port(self) -> int | None:
        """The operator's port if given, else the reported one."""
        port = self.spec.bootstrap_port
        return port if port is not None else self.info.bootstrap_port

    def is_available(self, now_s: float) -> bool:
        """Tell whether a request may be sent to it: ready, and its breaker lets it through.

        A worker in capacity back-off is available: it is only used last.
        """
        return self.state is State.READY and (self.breaker.is_closed or self.breaker.allows(now_s))

    def is_full(self, now_s: float) -> bool:
        """Tell whether its capacity back-off still runs."""
        return self.capacity_until_s > now_s

    def back_off(self, until_s: float) -> None:
        """Use it last until then; an earlier, longer back-off stays."""
        self.be_full_until(max(self.capacity_until_s, until_s))

    def be_full_until(self, until_s: float) -> None:
        """Use it last until then and no longer."""
        self.capacity_until_s = until_s
        Worker.latest_full_s = max(Worker.latest_full_s, until_s)

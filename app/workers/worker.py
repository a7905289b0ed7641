"""What a worker is (``WorkerSpec``), what it says of itself (``WorkerInfo``), how it fares."""

from __future__ import annotations

import ipaddress
import re
import time
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from app.workers.breaker import Breaker
from app.workers.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.clock import Clock
    from app.workers.vllm_facts import VllmFacts

_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", re.ASCII)
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


class Role(StrEnum):
    """What part of a request a worker computes."""

    PREFILL = "prefill"
    DECODE = "decode"
    REGULAR = "regular"


class Engine(StrEnum):
    """The engine, told by the URL's scheme: http(s) is SGLang, grpc(s) is vLLM."""

    SGLANG = "sglang"
    VLLM = "vllm"


def _split(url: str) -> SplitResult:
    """Split a URL and make sure that it names a scheme, a host and perhaps a port, no more."""
    if "@" in url:
        # Not repeated in the sentence: what stands before the @ may be a password.
        raise ValueError("A worker URL must not hold an @ (no user name, no password, no rank).")
    if _NOT_IN_URL.search(url):
        raise ValueError(f"The worker URL {url!r} holds white space or a control character.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"The worker URL {url!r} is not a URL: {exc}.") from None
    if parts.scheme not in _DEFAULT_PORTS or "://" not in url:
        raise ValueError(
            f"The worker URL {url!r} must start with http://, https://, grpc:// or grpcs://."
        )
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError(f"The worker URL {url!r} must end after host and port.")
    if port == 0:
        raise ValueError(f"The port of the worker URL {url!r} must lie in 1..65535.")
    return parts


def _bracketed_host(parts: SplitResult, url: str) -> str:
    host = parts.hostname
    if not host:
        raise ValueError(f"The worker URL {url!r} names no host.")
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host)}]"
        except ValueError:
            raise ValueError(f"The host of the worker URL {url!r} is no IPv6 address.") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"The host of the worker URL {url!r} is not a host name.")
    return host


@lru_cache(maxsize=4096)
def _host_of(url: str) -> str:
    return _bracketed_host(urlsplit(url), url)


def normalise_url(url: str) -> str:
    """Write a worker URL in the one form by which workers are compared.

    Scheme and host in lower case, no trailing slash, the port only if it was given, IPv6
    in its short bracketed form.

    Raises:
        ValueError: With a sentence: no or another scheme than http, https, grpc, grpcs; no
            host; port outside 1..65535; a user name, path, query or fragment.
    """
    parts = _split(url)
    host = _bracketed_host(parts, url)
    return (
        f"{parts.scheme}://{host}"
        if parts.port is None
        else (f"{parts.scheme}://{host}:{parts.port}")
    )


def url_identity(url: str) -> tuple[str, str, int]:
    """Return scheme, host and effective port: equal for ``http://a`` and ``http://a:80``."""
    parts = _split(url)
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
    return parts.scheme, _bracketed_host(parts, url), port


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the operator says of a worker; never changed by what the worker answers.

    Attributes:
        url: Normalised when the object is made, see ``normalise_url``.
        role: The part of a request it computes.
        bootstrap_port: Port of the prefill worker's bootstrap server, 1..65535; None:
            take what the worker reports.
        model_ids: Models it serves; empty: ask the worker.
        labels: Free words of the operator.
        priority: Shown, 50 by default.
        cost: Shown, relative, above 0.
        api_key: Bearer key for every call to the worker; never printed.
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
    api_key: str | None = field(default=None, repr=False)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normalise_url(self.url))
        if self.bootstrap_port is not None and not 1 <= self.bootstrap_port <= 65535:
            raise ValueError(f"bootstrap_port must lie in 1..65535, not {self.bootstrap_port}.")
        if not self.cost > 0:
            raise ValueError(f"cost must be above 0, not {self.cost}.")

    @property
    def host(self) -> str:
        """Host of the URL, IPv6 in brackets: the form sent as ``bootstrap_host``."""
        return _host_of(self.url)

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


NO_INFO = WorkerInfo()
"""The info of a worker that was not registered yet."""


class Worker:
    """A worker as it is now. State, info and spec are changed through the registry only.

    Args:
        spec: What the operator said.
        breaker: Its circuit breaker; a default one on ``now_s`` if left out.
        now_s: Clock in seconds.
    """

    __slots__ = (
        "added_s",
        "breaker",
        "capacity_until_s",
        "host",
        "id",
        "info",
        "is_discovered",
        "last_error",
        "last_probe_s",
        "n_failures",
        "n_leases",
        "n_successes",
        "rank_leases",
        "spec",
        "state",
        "state_reason",
    )

    def __init__(
        self, spec: WorkerSpec, breaker: Breaker | None = None, now_s: Clock = time.monotonic
    ) -> None:
        self.spec = spec
        self.id = spec.id
        self.host = spec.host
        self.state = State.JOINING
        self.state_reason = "not registered yet"
        self.info = NO_INFO
        self.is_discovered = False
        """The worker answered a registration, so an empty model list means: serves all."""
        self.breaker = breaker if breaker is not None else Breaker(now_s)
        self.n_leases = 0
        self.rank_leases = [0]
        """Leases of each data-parallel rank."""
        self.capacity_until_s = 0.0
        """Until then it said that it is full (429, 503): used only if no other is left."""
        self.last_error = ""
        self.added_s = now_s()
        self.last_probe_s: float | None = None
        self.n_failures = 0
        """Failed probes in a row."""
        self.n_successes = 0
        """Good probes in a row."""

    def __repr__(self) -> str:
        return f"Worker({self.spec.role} {self.spec.url} {self.state})"

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
        self.capacity_until_s = max(self.capacity_until_s, until_s)

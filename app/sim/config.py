"""What a simulated worker is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["prefill", "decode", "regular"]

FAKE_HOST = "2.2.2.2"
"""SGLang's own fake bootstrap host: no transfer, each leg answers alone."""

DEFAULT_BOOTSTRAP_PORT = 8998
"""SGLang's default of ``--disaggregation-bootstrap-port``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """One worker's identity, limits and speed.

    Durations are seconds and are multiplied by ``time_scale`` when they
    describe simulated work (prefill, lead, transfer, decode step); timeouts
    and detection times are taken as they are. The defaults make an engine
    that computes in no time and fails as slowly as SGLang 0.5.23 does.
    """

    role: Role = "prefill"
    host: str = "127.0.0.1"
    port: int = 0
    bootstrap_port: int | None = None
    """Prefill: where it listens (None: any free port). Decode: its fall-back."""
    model_id: str = "sim-model"
    api_key: str | None = None
    dp_size: int = 1
    page_size: int = 1
    """Tokens of one block of the prefix cache."""
    chunk_tokens: int = 8192
    schedule_policy: str = "fcfs"
    prefill_tokens_per_s: float = 1e9
    lead_s: float = 0.0
    """From arrival until the scheduler can start a request."""
    transfer_s_per_token: float = 0.0
    decode_step_s: float = 0.0
    time_scale: float = 1.0
    max_running_requests: int = 4096
    max_queued_requests: int | None = None
    max_total_tokens: int = 4_000_000
    context_length: int = 131_072
    enable_cache_report: bool = False
    bootstrap_timeout_s: float = 300.0
    """How long a leg waits alone."""
    handshake_timeout_s: float = 14.0
    """How long decode tries a bootstrap address where nobody listens."""
    peer_death_s: float = 2.0
    """From a peer's death to the error of the survivor."""
    disconnect_notice_s: float = 4.0
    """From a client's leaving to the abort of its request."""
    n_kept_seen: int = 10_000
    """How many requests the counters remember."""
    keep_alive_s: int = 5
    """How long a connection may be idle (``SGLANG_TIMEOUT_KEEP_ALIVE``)."""
    has_kv_events: bool = False
    """It was started with ``--kv-events-config`` and a ZeroMQ publisher."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Members of ``/server_info`` that it says otherwise than it is."""

    def scaled(self, duration_s: float) -> float:
        """Seconds of wall clock for simulated work."""
        return duration_s * self.time_scale

    @property
    def max_request_tokens(self) -> int:
        """Prompt and answer together, as SGLang's scheduler counts them."""
        return min(self.context_length, self.max_total_tokens) - 1

    @property
    def max_input_tokens(self) -> int:
        """A prompt of this length is refused by the scheduler."""
        return self.max_request_tokens - 5

    @property
    def own_bootstrap_port(self) -> int:
        """The port a request without ``bootstrap_port`` falls back to."""
        return self.bootstrap_port or DEFAULT_BOOTSTRAP_PORT

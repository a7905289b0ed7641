"""What a simulated vLLM worker is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.sim.config import Role

NIXL = ("NixlConnector", "NixlPullConnector", "NixlPushConnector")
MOONCAKE = "MooncakeConnector"
KV_ROLES: Mapping[str, str] = {"prefill": "kv_producer", "decode": "kv_consumer", "regular": ""}
VERSION = "0.32.0"

LoadFailurePolicy = Literal["fail", "recompute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """PEM of a ``grpcs`` worker; with ``client_ca`` it wants to see the client's certificate."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """One worker's identity, limits and speed.

    Durations are seconds and are multiplied by ``time_scale`` when they describe simulated
    work; leases and timeouts are taken as they are. The defaults make an engine that computes
    in no time, with the leases and timeouts of vLLM 0.32.
    """

    role: Role = "prefill"
    host: str = "127.0.0.1"
    port: int = 0
    connector: str = "NixlConnector"
    """Class name, one of ``NIXL`` or ``MOONCAKE``; empty: no KV leaves the worker."""
    kv_role: str | None = None
    """None: as the role says."""
    engine_id: str | None = None
    """None: another one at every start, as vLLM does it."""
    bootstrap_port: int = 0
    """Of a Mooncake prefill worker; 0 takes a free one."""
    model_id: str = "sim-model"
    tokenizer_folder: Path | None = None
    """Whose files GetTokenizer sends."""
    default_sampling: Mapping[str, float] = field(default_factory=dict)
    dp_size: int = 1
    block_size: int = 16
    max_num_seqs: int = 256
    max_total_tokens: int = 4_000_000
    context_length: int = 131_072
    chunk_tokens: int = 8192
    """Most tokens of one step (``max_num_batched_tokens``)."""
    prefill_tokens_per_s: float = 1e9
    lead_s: float = 0.0
    """From arrival until the scheduler can start a request."""
    transfer_s_per_token: float = 0.0
    decode_step_s: float = 0.0
    time_scale: float = 1.0
    lease_s: float = 30.0
    """``kv_lease_duration``: how long NIXL keeps a finished prefill's blocks unread."""
    has_heartbeats: bool = True
    """Decode asks for longer leases while it queues."""
    mooncake_abort_s: float = 480.0
    """How long Mooncake keeps blocks unread, and how long an ask waits for them."""
    mooncake_grace_s: float = 60.0
    """How much longer decode waits where prefill does not answer at all."""
    mooncake_sender_tasks: int = 20
    """Asks that a prefill worker can have at a time; twice the connector's ``num_workers``."""
    load_failure_policy: LoadFailurePolicy = "fail"
    max_logprobs: int = 20
    kv_cache_dtype: str = "auto"
    model_dtype: str = "torch.float32"
    pairing_protocol: str = ""
    reasoning_parser: str = ""
    has_kv_events: bool = False
    """It was started with ``--kv-events-config`` and a ZeroMQ publisher."""
    tls: ServerTls | None = None
    version: str = VERSION
    n_kept_seen: int = 10_000
    """How many requests the counters remember."""

    @property
    def own_kv_role(self) -> str:
        """What GetServerInfo says and the engine asserts."""
        if not self.connector:
            return ""
        return KV_ROLES[self.role] if self.kv_role is None else self.kv_role

    @property
    def is_nixl(self) -> bool:
        """Either direction of NIXL."""
        return self.connector in NIXL

    @property
    def heartbeat_s(self) -> float:
        """A sixth of the lease, as in vLLM 0.32."""
        return self.lease_s / 6

    @property
    def lease_extension_s(self) -> float:
        """What a heartbeat gives from now on: two thirds of the lease."""
        return self.lease_s * 2 / 3

    @property
    def mooncake_receive_s(self) -> float:
        """When decode gives a prefill worker up that says nothing."""
        return self.mooncake_abort_s + self.mooncake_grace_s

    def scaled(self, duration_s: float) -> float:
        """Seconds of wall clock for simulated work."""
        return duration_s * self.time_scale

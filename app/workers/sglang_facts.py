"""What only an SGLang worker says of itself, and its pair has to agree on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SglangFacts:
    """From ``/server_info`` of SGLang 0.5.23; empty or None: it did not say.

    Attributes:
        transfer_backend: Who carries the KV cache, as ``mooncake``.
        dtype: Of the weights, as ``bfloat16``; empty for ``auto`` too, which says nothing.
        kv_cache_dtype: The same of the KV cache.
        revision: Of the model, if the operator named one.
        attention_tp_size: Tensor-parallel workers that share one KV cache: the whole size by
            the data-parallel and the context-parallel size of attention.
        attention_cp_size: Context-parallel size of attention.
        pp_size: Pipeline-parallel size.
        allocation_policy: When decode makes room for a KV cache, as ``early``.
    """

    transfer_backend: str = ""
    dtype: str = ""
    kv_cache_dtype: str = ""
    revision: str = ""
    attention_tp_size: int | None = None
    attention_cp_size: int | None = None
    pp_size: int | None = None
    allocation_policy: str = ""

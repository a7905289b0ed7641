"""What only a vLLM worker says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class VllmFacts:
    """From GetModelInfo and GetServerInfo; empty, None or 0: it did not say.

    Attributes:
        kv_connector: Class name of the KV connector.
        kv_role: ``kv_producer``, ``kv_consumer`` or ``kv_both``.
        kv_engine_id: Without the suffix of a data-parallel rank. Unless the operator pinned it,
            every start of the worker makes up another one.
        kv_cache_dtype: Compared between the workers of a pair, as are the next three.
        attention_backend: Only said when the operator asked for one.
        model_dtype: As ``torch.bfloat16``.
        pairing_protocol: Two workers that both name one pair if and only if they are equal.
        model_path: A folder on the worker or a name on a hub.
        tokenizer_path: The same for its tokenizer.
        default_sampling: At most temperature, top_p, top_k, min_p, repetition_penalty: what
            vLLM's own server uses for what a request leaves out.
        eos_token_ids: Those of config.json; the generation config may name more.
        n_vocab: Size of the vocabulary.
        is_generation: False for an embedding model.
        reasoning_parser: Name of the engine's own reasoning parser.
        constrained_decoding_start: ``after_reasoning`` or ``first_token``.
    """

    kv_connector: str = ""
    kv_role: str = ""
    kv_engine_id: str = ""
    kv_cache_dtype: str = ""
    attention_backend: str = ""
    model_dtype: str = ""
    pairing_protocol: str = ""
    model_path: str = ""
    tokenizer_path: str = ""
    default_sampling: Mapping[str, float] = field(default_factory=dict, hash=False)
    eos_token_ids: tuple[int, ...] = ()
    n_vocab: int = 0
    is_generation: bool = True
    reasoning_parser: str = ""
    constrained_decoding_start: str = ""

"""The tables of fields: what chat, completions and generate bodies may hold.

Ranges are those of vLLM 0.32, which answers INVALID_ARGUMENT outside of them; here they are
refused before any worker computes. ``stop`` takes four strings as OpenAI does, ``top_logprobs``
20, which is vLLM's own default limit.
"""

from __future__ import annotations

from typing import Any

from app.text.field_rules import (
    LARGEST_REAL,
    Anything,
    Biases,
    FieldTable,
    Flag,
    Ids,
    Object,
    Objects,
    Real,
    Rule,
    Text,
    Texts,
    Whole,
)

MAX_LOGPROBS = 20
_MAX_COUNT = 2**31 - 1
_ANY_SEED = Whole(-(2**63), 2**64 - 1)
_CHOICES = Whole(1, 128)

_SAMPLING: dict[str, Rule] = {
    "temperature": Real(0, 2),
    "top_p": Real(0, 1, is_open=True),
    "top_k": Whole(-1, _MAX_COUNT),
    "min_p": Real(0, 1),
    "frequency_penalty": Real(-2, 2),
    "presence_penalty": Real(-2, 2),
    "repetition_penalty": Real(0, LARGEST_REAL, is_open=True),
    "stop_token_ids": Ids(),
    "ignore_eos": Flag(),
    "skip_special_tokens": Flag(),
    "spaces_between_special_tokens": Flag(),
    "logit_bias": Biases(),
    "n": _CHOICES,
}

_CONSTRAINTS: dict[str, Rule] = {
    "response_format": Object(),
    "structured_outputs": Object(),
    "json_schema": Anything(),
    "regex": Text(),
    "ebnf": Text(),
    "grammar": Text(),
    "choice": Anything(),
    "guided_json": Anything(),
    "guided_json_object": Flag(),
    "guided_regex": Text(),
    "guided_grammar": Text(),
    "guided_choice": Anything(),
    "structural_tag": Anything(),
}

_OPENAI: dict[str, Rule] = {
    **_SAMPLING,
    **_CONSTRAINTS,
    "model": Text(),
    "stream": Flag(),
    "stream_options": Object(),
    "seed": _ANY_SEED,
    "min_tokens": Whole(0, _MAX_COUNT),
    "stop": Texts(4),
    "include_stop_str_in_output": Flag(),
    "no_stop_trim": Flag(),  # SMG's and SGLang's word for the one above
    "prompt_logprobs": Whole(0, MAX_LOGPROBS),
    "truncate_prompt_tokens": Whole(-1, _MAX_COUNT),
    "return_token_ids": Flag(),
    "return_tokens_as_token_ids": Flag(),
    "add_special_tokens": Flag(),
    "echo": Flag(),
}

_CHAT: dict[str, Rule] = {
    **_OPENAI,
    "messages": Objects(),
    "max_tokens": Whole(1, _MAX_COUNT),
    "max_completion_tokens": Whole(1, _MAX_COUNT),
    "logprobs": Flag(),
    "top_logprobs": Whole(0, MAX_LOGPROBS),
    "tools": Objects(),
    "tool_choice": Anything(),
    "functions": Objects(),
    "function_call": Anything(),
    "parallel_tool_calls": Flag(),
    "reasoning_effort": Text(),
    "separate_reasoning": Flag(),  # SMG, SGLang: false leaves the thought in the content
    "include_reasoning": Flag(),  # vLLM: false drops the thought
    "chat_template": Text(),
    "chat_template_kwargs": Object(),
    "documents": Objects(),
    "add_generation_prompt": Flag(),
    "continue_final_message": Flag(),
}

# They describe the client or its bill, or tune a service that is not this one.
_HARMLESS = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "rid",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)

_OFF: tuple[Any, ...] = (False, 0, "", [], {})
_REFUSED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "beam_width": (1,),
    "cache_salt": _OFF,
    "custom_logit_processor": _OFF,
    "custom_params": _OFF,
    "extra_key": _OFF,
    "guided_decoding_backend": _OFF,
    "guided_whitespace_pattern": _OFF,
    "kv_transfer_params": _OFF,
    "length_penalty": (1.0, 0.0),
    "logits_processors": _OFF,
    "lora_id": _OFF,
    "lora_path": _OFF,
    "lora_request": _OFF,
    "media_io_kwargs": _OFF,
    "mm_processor_kwargs": _OFF,
    "priority": (0,),
    "repetition_detection": _OFF,
    "return_hidden_states": _OFF,
    "session_id": _OFF,
    "session_params": _OFF,
    "stop_regex": _OFF,
    "thinking_token_budget": (),
    "use_beam_search": _OFF,
    "vllm_xargs": _OFF,
}

CHAT = FieldTable(
    _CHAT,
    _HARMLESS,
    {
        **_REFUSED,
        "audio": _OFF,
        "best_of": (1,),
        "modalities": (["text"], []),
        "return_audio": _OFF,
        "sampling_seed": (),
        "stream_reasoning": (True,),
        "web_search_options": (),
    },
)

COMPLETIONS = FieldTable(
    {
        **_OPENAI,
        "prompt": Anything(),
        "max_tokens": Whole(0, _MAX_COUNT),
        "logprobs": Whole(0, MAX_LOGPROBS),
        "best_of": _CHOICES,
    },
    _HARMLESS,
    {**_REFUSED, "prompt_embeds": _OFF, "suffix": ("",), "sampling_seed": ()},
)

GENERATE = FieldTable(
    {
        "model": Text(),
        "text": Anything(),
        "input_ids": Anything(),
        "sampling_params": Anything(),
        "stream": Flag(),
        "return_logprob": Anything(),
        "logprob_start_len": Anything(),
        "top_logprobs_num": Anything(),
        "return_text_in_logprobs": Flag(),
    },
    _HARMLESS | {"log_metrics", "no_logs", "custom_labels", "background", "conversation_id"},
    {
        **_REFUSED,
        "audio_data": _OFF,
        "image_data": _OFF,
        "input_embeds": _OFF,
        "max_thinking_tokens": (),
        "modalities": (["text"], []),
        "require_reasoning": _OFF,
        "return_bytes": _OFF,
        "return_entropy": _OFF,
        "return_prompt_token_ids": _OFF,
        "return_routed_experts": _OFF,
        "return_sampling_mask": _OFF,
        "token_ids_logprob": _OFF,
        "video_data": _OFF,
        "watermark": _OFF,
    },
)

GENERATE_SAMPLING = FieldTable(
    {
        **_SAMPLING,
        "max_new_tokens": Whole(1, _MAX_COUNT),
        "min_new_tokens": Whole(0, _MAX_COUNT),
        "stop": Texts(32),
        "sampling_seed": _ANY_SEED,
        "seed": _ANY_SEED,
        "no_stop_trim": Flag(),
        "json_schema": Anything(),
        "regex": Text(),
        "ebnf": Text(),
        "structural_tag": Anything(),
    },
    {"stream_interval"},
    _REFUSED,
)

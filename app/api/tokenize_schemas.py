"""Request and answer schemas of ``/tokenize`` and ``/detokenize``, with examples."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_STR: Schema = {"type": "string"}
_INT: Schema = {"type": "integer"}
_OBJECT: Schema = {"type": "object"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one_or_list(items: Schema) -> Schema:
    return {"anyOf": [items, _list(items)]}


_TOKENS = _one_or_list(_list(_INT))
_MODEL: Schema = {"type": "string", "description": "Left out, any ready model is taken"}

TOKENIZE_SCHEMAS: dict[str, Schema] = {
    "TokenizeRequest": {
        "type": "object",
        "description": "Either `prompt` or `messages`",
        "properties": {
            "model": _MODEL,
            "prompt": _one_or_list(_STR),
            "messages": _list(_OBJECT),
            "tools": _list(_OBJECT),
            "chat_template_kwargs": _OBJECT,
            "add_generation_prompt": {"type": "boolean", "default": True},
            "continue_final_message": {"type": "boolean", "default": False},
            "add_special_tokens": {
                "type": "boolean",
                "description": "Left out: true for a prompt, false for messages",
            },
            "return_token_strs": {"type": "boolean", "default": False},
        },
        "additionalProperties": True,
    },
    "TokenizeAnswer": {
        "type": "object",
        "properties": {
            "count": _one_or_list(_INT),
            "max_model_len": {"type": ["integer", "null"]},
            "tokens": _TOKENS,
            "token_strs": {"anyOf": [*_one_or_list(_list(_STR))["anyOf"], {"type": "null"}]},
        },
        "required": ["count", "tokens"],
    },
    "DetokenizeRequest": {
        "type": "object",
        "properties": {
            "model": _MODEL,
            "tokens": _TOKENS,
            "skip_special_tokens": {
                "type": "boolean",
                "description": "Left out: false for models on vLLM, true on SGLang",
            },
        },
        "required": ["tokens"],
        "additionalProperties": True,
    },
    "DetokenizeAnswer": {
        "type": "object",
        "properties": {"text": _one_or_list(_STR), "prompt": _one_or_list(_STR)},
        "required": ["text"],
    },
}


def _operation(kind: str, requests: dict[str, Any], answer: Any) -> dict[str, Any]:
    examples = {name: {"summary": name, "value": value} for name, value in requests.items()}
    request_ref = {"$ref": f"#/components/schemas/{kind}Request"}
    answer_ref = {"$ref": f"#/components/schemas/{kind}Answer"}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request_ref, "examples": examples}},
        },
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": answer_ref, "example": answer}},
            }
        },
    }


TOKENIZE = _operation(
    "Tokenize",
    {
        "prompt": {"model": "demo-model", "prompt": "Hello!", "return_token_strs": True},
        "chat": {"model": "demo-model", "messages": [{"role": "user", "content": "Hello!"}]},
    },
    {"count": 2, "max_model_len": 4096, "tokens": [9707, 0], "token_strs": ["Hello", "!"]},
)
DETOKENIZE = _operation(
    "Detokenize",
    {"tokens": {"model": "demo-model", "tokens": [9707, 0]}},
    {"text": "Hello!", "prompt": "Hello!"},
)

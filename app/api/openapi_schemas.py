"""Request and answer schemas of the generation routes, with examples.

Bodies are passed on as they came, so the schemas name what clients commonly send and stay open
for every other field of the engine.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_STR: Schema = {"type": "string"}
_INT: Schema = {"type": "integer"}
_NUM: Schema = {"type": "number"}
_BOOL: Schema = {"type": "boolean"}


def _object(properties: Schema, required: tuple[str, ...] = (), **more: Any) -> Schema:
    shape: Schema = {"type": "object", "properties": properties, "additionalProperties": True}
    if required:
        shape["required"] = list(required)
    return shape | more


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    """Returns a reference to a schema of :data:`SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


_SAMPLING: Schema = {
    "model": {"type": "string", "description": "Left out, any ready pair is taken"},
    "stream": {"type": "boolean", "default": False},
    "stream_options": _object({"include_usage": _BOOL}),
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "max_tokens": {"type": "integer", "minimum": 1},
    "n": {"type": "integer", "minimum": 1, "maximum": 128, "default": 1},
    "seed": _INT,
    "stop": {"anyOf": [_STR, _array(_STR)]},
}
_USAGE: Schema = _object(
    {
        "prompt_tokens": _INT,
        "completion_tokens": _INT,
        "total_tokens": _INT,
        "prompt_tokens_details": _object({"cached_tokens": _INT}),
    }
)
_MESSAGE: Schema = _object(
    {
        "role": {"type": "string", "examples": ["system", "user", "assistant", "tool"]},
        "content": {"anyOf": [_STR, _array(_object({"type": _STR}))]},
    },
    ("role",),
)


def _answer(kind: str, choice: Schema) -> Schema:
    return _object(
        {
            "id": _STR,
            "object": {"type": "string", "const": kind},
            "created": _INT,
            "model": _STR,
            "choices": _array(
                _object({"index": _INT, **choice, "finish_reason": {"type": ["string", "null"]}})
            ),
            "usage": {"anyOf": [ref("Usage"), {"type": "null"}]},
        }
    )


SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _STR,
                    "type": {
                        "type": "string",
                        "enum": ["invalid_request_error", "server_error"],
                    },
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string", "description": "Stable snake_case word"},
                    "leg": {
                        "type": "string",
                        "enum": ["prefill", "decode"],
                        "description": "The leg that failed, if one did",
                    },
                },
                ("message", "type", "param", "code"),
            )
        },
        ("error",),
    ),
    "Usage": _USAGE,
    "ChatRequest": _object(
        {
            "messages": _array(_MESSAGE, minItems=1),
            **_SAMPLING,
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            "tools": _array(_object({"type": _STR})),
        },
        ("messages",),
    ),
    "ChatAnswer": _answer("chat.completion", {"message": _MESSAGE}),
    "ChatEvent": _answer(
        "chat.completion.chunk", {"delta": _object({"role": _STR, "content": _STR})}
    ),
    "CompletionRequest": _object(
        {
            "prompt": {
                "anyOf": [_STR, _array(_STR), _array(_INT), _array(_array(_INT))],
                "description": "One prompt or a batch, as text or token ids",
            },
            **_SAMPLING,
        },
        ("prompt",),
    ),
    "CompletionAnswer": _answer("text_completion", {"text": _STR}),
    "GenerateRequest": _object(
        {
            "text": {"anyOf": [_STR, _array(_STR)]},
            "input_ids": {"anyOf": [_array(_INT), _array(_array(_INT))]},
            "sampling_params": _object(
                {"max_new_tokens": _INT, "temperature": _NUM, "n": _INT, "stop": _array(_STR)}
            ),
            "stream": {"type": "boolean", "default": False},
            "return_logprob": {"type": "boolean", "default": False},
            "rid": {"anyOf": [_STR, _array(_STR)]},
        },
        description="One of text, input_ids and input_embeds",
    ),
    "GenerateAnswer": _object({"text": _STR, "meta_info": _object({"id": _STR})}),
}

_IDS = {"id": "chatcmpl-5f1c", "created": 1795422858, "model": "demo-model"}
_COUNTS = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
_CHUNK_HEAD = (
    '{"id":"chatcmpl-5f1c","object":"chat.completion.chunk","created":1795422858,'
    '"model":"demo-model","choices":'
)

REQUEST_EXAMPLES: dict[str, dict[str, Any]] = {
    "chat": {"model": "demo-model", "messages": [{"role": "user", "content": "Say hello"}]},
    "completions": {"model": "demo-model", "prompt": "Once upon a time", "max_tokens": 16},
    "generate": {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 16}},
}
ANSWER_EXAMPLES: dict[str, dict[str, Any]] = {
    "chat": {
        **_IDS,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello."},
                "finish_reason": "stop",
            }
        ],
        "usage": _COUNTS,
    },
    "completions": {
        **_IDS,
        "id": "cmpl-5f1c",
        "object": "text_completion",
        "choices": [{"index": 0, "text": " there was", "finish_reason": "length"}],
        "usage": _COUNTS,
    },
    "generate": {
        "text": " there was",
        "meta_info": {"id": "5f1c", "prompt_tokens": 4, "completion_tokens": 3},
    },
}
STREAM_EXAMPLES: dict[str, str] = {
    "chat": (
        f'data: {_CHUNK_HEAD}[{{"index":0,"delta":{{"role":"assistant","content":"Hel"}}}}]}}\n\n'
        f'data: {_CHUNK_HEAD}[{{"index":0,"delta":{{"content":"lo."}},'
        '"finish_reason":"stop"}]}\n\n'
        "data: [DONE]\n\n"
    ),
    "completions": (
        'data: {"id":"cmpl-5f1c","object":"text_completion","created":1795422858,'
        '"model":"demo-model","choices":[{"index":0,"text":" there was"}]}\n\n'
        "data: [DONE]\n\n"
    ),
    "generate": ('data: {"text":" there was","meta_info":{"id":"5f1c"}}\n\ndata: [DONE]\n\n'),
}
ERROR_EXAMPLE = {
    "error": {
        "message": "the prefill worker could not be reached: connection refused",
        "type": "server_error",
        "param": None,
        "code": "worker_unreachable",
        "leg": "prefill",
    }
}

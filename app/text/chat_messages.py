"""Messages of a chat request, brought into the one form that templates read.

Text only: a part that is no text is refused, because the wire of this gateway carries none.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson

from app.protocol.wire_json import JsonObject
from app.text.encoding_pool import EncodingPool
from app.text.field_rules import refuse

# Reading so many takes about a millisecond.
_MAX_INLINE_ITEMS = 500
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CARRIED = ("name", "tool_call_id", "tools")
# Part type -> where its text stands. Chat's own name is "text"; the others come from the
# Responses API, from vLLM and from assistants that quote their own refusal or thought.
_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}


def read_messages(messages: list[JsonObject]) -> list[JsonObject]:
    """Brings messages into the form of a template's context.

    Content becomes a list of text parts as the client grouped them or stays a string; tool
    calls hold their arguments as objects, as Hugging Face templates expect.

    Raises:
        InvalidRequest: A message is malformed, or holds something other than text.
    """
    if not messages:
        refuse("messages", "must be a non-empty list")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


async def read_messages_soon(messages: list[JsonObject], pool: EncodingPool) -> list[JsonObject]:
    """Reads them; in a thread when there are many, or of many parts.

    Raises:
        InvalidRequest: As ``read_messages``.
        CapacityError: Too many texts wait.
    """
    n_items = len(messages)
    for message in messages:
        for name in ("content", "tool_calls"):
            if isinstance(items := message.get(name), list):
                n_items += len(items)
    if n_items <= _MAX_INLINE_ITEMS:
        return read_messages(messages)
    return await pool.run(partial(read_messages, messages))


def _message(message: JsonObject, param: str) -> JsonObject:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        refuse(f"{param}.role", f"must be one of {', '.join(sorted(_ROLES))}")
    content = _content(message.get("content"), f"{param}.content")
    if content is None and role != "assistant":
        refuse(f"{param}.content", "is missing")
    made: JsonObject = {"role": role, "content": content}
    for key in _CARRIED:
        if (value := message.get(key)) is not None:
            made[key] = value
    if role == "assistant":
        _add_assistant(made, message, param)
    if role == "function":  # the older form of a tool's answer
        made["role"] = "tool"
    return made


def _add_assistant(made: JsonObject, message: JsonObject, param: str) -> None:
    thought = message.get("reasoning_content")
    if thought is None:
        thought = message.get("reasoning")
    if thought is not None:
        if not isinstance(thought, str):
            refuse(f"{param}.reasoning_content", "must be a string")
        # Templates read one name or the other.
        made["reasoning_content"] = made["reasoning"] = thought
    calls = message.get("tool_calls")
    if calls is None and (legacy := message.get("function_call")) is not None:
        calls = [{"type": "function", "function": legacy}]
    if calls is None:
        return
    if not isinstance(calls, list):
        refuse(f"{param}.tool_calls", "must be a list")
    if calls:
        made["tool_calls"] = [
            _tool_call(call, f"{param}.tool_calls[{at}]") for at, call in enumerate(calls)
        ]


def _tool_call(call: Any, param: str) -> JsonObject:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        refuse(f"{param}.function", "must be an object with a name")
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError as error:
            refuse(f"{param}.function.arguments", f"is not valid JSON: {error}")
    if not isinstance(arguments, dict):
        refuse(f"{param}.function.arguments", "must be a JSON object")
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _content(content: Any, param: str) -> str | list[JsonObject] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(param, "must be a string or a list of parts")
    return [_part(part, f"{param}[{at}]") for at, part in enumerate(content)]


def _part(part: Any, param: str) -> JsonObject:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        refuse(f"{param}.type", "must be a string")
    if kind not in _TEXT_PARTS:
        refuse(f"{param}.type", f"is {kind!r}; only text is carried", "unsupported")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        refuse(f"{param}.{_TEXT_PARTS[kind]}", "must be a string")
    return {"type": "text", "text": text}

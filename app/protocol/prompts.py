"""Reading the prompt: how many there are, how long, and the bytes that decide its KV cache."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, NoReturn

import orjson

from app.errors import InvalidRequest
from app.protocol.routes import Route
from app.protocol.wire_json import JsonObject

_MAX_KEY_BYTES = 1024 * 1024
_MAX_BATCH = 1024
_CHARS_PER_TOKEN = 4
_TOKEN_BYTES = 4
_MAX_OPAQUE_CHARS = 256


class Prompt(NamedTuple):
    """A request's prompt or list of prompts; the fields are those of ``RequestFacts``."""

    batch: int | None
    key: bytes
    n_tokens: int
    has_ids: bool = False


def read_prompt(route: Route, document: JsonObject) -> Prompt:
    """Reads the prompt of a parsed body.

    Raises:
        InvalidRequest: It is missing, empty, of a wrong or mixed type, or too many.
    """
    if route is Route.CHAT:
        return _read_chat(document)
    return _read_completions(document) if route is Route.COMPLETIONS else _read_generate(document)


def _read_chat(document: JsonObject) -> Prompt:
    messages = document.get("messages")
    if messages is None:
        _refuse_missing("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a non-empty list.", param="messages")
    text = _KeyText()
    if tools := document.get("tools"):
        text.add_json(tools, "tools")
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(
                f"messages[{position}] must be an object.", param=f"messages[{position}]"
            )
        role = message.get("role")
        if isinstance(role, str):
            text.add(role)
        content = message.get("content")
        if isinstance(content, str):
            text.add(content)
        elif content is not None:
            _add_parts(text, content, f"messages[{position}].content")
        if tool_calls := message.get("tool_calls"):
            text.add_json(tool_calls, f"messages[{position}].tool_calls")
    return Prompt(None, text.key(), text.n_tokens())


def _add_parts(text: _KeyText, content: object, param: str) -> None:
    """Adds content given as parts; what is not text (an image) counts by its identity only."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text.add(part["text"])
        else:
            text.add_opaque(part, param)


def _read_completions(document: JsonObject) -> Prompt:
    prompt = document.get("prompt")
    if prompt is None:
        _refuse_missing("prompt")
    if isinstance(prompt, str):
        return _text_prompt([prompt], None)
    if isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], str):
            return _text_prompt(prompt, "prompt")
        return _ids_prompt(prompt, "prompt")
    raise InvalidRequest(
        "prompt must be a string, a list of strings, a list of token ids or a list of such lists.",
        param="prompt",
    )


def _read_generate(document: JsonObject) -> Prompt:
    # The engine looks in this order, too.
    text = document.get("text")
    if text is not None:
        if isinstance(text, str):
            return _text_prompt([text], None)
        if isinstance(text, list) and text:
            return _text_prompt(text, "text")
        raise InvalidRequest("text must be a string or a non-empty list.", param="text")
    input_ids = document.get("input_ids")
    if input_ids is not None:
        if isinstance(input_ids, list) and input_ids:
            return _ids_prompt(input_ids, "input_ids")
        raise InvalidRequest("input_ids must be a non-empty list.", param="input_ids")
    embeds = document.get("input_embeds")
    if embeds is None:
        _refuse_missing("text")
    return _embeds_prompt(embeds)


def _text_prompt(texts: list[str], batch_param: str | None) -> Prompt:
    """Reads texts: a single one when no parameter is named, else a batch."""
    if batch_param is not None:
        _check_batch(texts, batch_param)
        if set(map(type, texts)) != {str}:
            raise InvalidRequest(f"{batch_param} must hold only strings.", param=batch_param)
    text = _KeyText()
    for item in texts:
        text.add(item)
    return Prompt(None if batch_param is None else len(texts), text.key(), text.n_tokens())


def _ids_prompt(ids: list[Any], param: str) -> Prompt:
    """Reads one list of token ids, or a list of such lists."""
    if set(map(type, ids)) == {int}:
        return Prompt(None, _ids_key(ids, param), len(ids), has_ids=True)
    _check_batch(ids, param)
    for item in ids:
        if not isinstance(item, list) or set(map(type, item)) != {int}:
            raise InvalidRequest(
                f"{param} must hold only token ids, or only non-empty lists of token ids.",
                param=param,
            )
    return Prompt(len(ids), _ids_key(ids[0], param), sum(map(len, ids)), has_ids=True)


def _embeds_prompt(embeds: object) -> Prompt:
    """Reads rows of numbers, or a batch of such tables; embeddings have no prefix key."""
    if not isinstance(embeds, list) or not embeds or not isinstance(embeds[0], list):
        raise InvalidRequest("input_embeds must be a list of rows.", param="input_embeds")
    if not embeds[0] or not isinstance(embeds[0][0], list):
        return Prompt(None, b"", len(embeds))
    _check_batch(embeds, "input_embeds")
    if set(map(type, embeds)) != {list}:
        raise InvalidRequest("input_embeds must hold only tables.", param="input_embeds")
    return Prompt(len(embeds), b"", sum(map(len, embeds)))


def _ids_key(ids: list[int], param: str) -> bytes:
    head = ids[: _MAX_KEY_BYTES // _TOKEN_BYTES]
    try:
        return struct.pack(f"<{len(head)}I", *head)
    except struct.error:
        raise InvalidRequest(
            f"{param} must hold token ids from 0 to 4294967295.", param=param
        ) from None


def _check_batch(items: list[Any], param: str) -> None:
    if len(items) > _MAX_BATCH:
        raise InvalidRequest(
            f"{param} holds {len(items)} prompts; at most {_MAX_BATCH} are taken.", param=param
        )


def dump_nested(value: object, param: str) -> bytes:
    """Writes a part of the body again; the writer's limit of depth is below the parser's."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{param} is nested too deeply.", param=param) from None


def _refuse_missing(param: str) -> NoReturn:
    raise InvalidRequest(
        f"Missing required parameter: {param}.", code="missing_required_parameter", param=param
    )


class _KeyText:
    """Collects the first 1 MiB of a prompt's text and counts all of it."""

    __slots__ = ("_n_uncounted", "_pieces", "add")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._n_uncounted = 0
        # Adds text; a NUL behind it keeps two splits of one text apart.
        self.add = self._pieces.append

    def add_json(self, value: object, param: str) -> None:
        """Adds what the chat template writes out as JSON."""
        self.add(dump_nested(value, param).decode())

    def add_opaque(self, part: object, param: str) -> None:
        """Adds something that has an identity but no countable text."""
        text = dump_nested(part, param).decode()[:_MAX_OPAQUE_CHARS]
        self._n_uncounted += len(text)
        self.add(text)

    def key(self) -> bytes:
        """The key, cut to its limit."""
        pieces = self._pieces
        if sum(map(len, pieces)) > _MAX_KEY_BYTES:
            pieces = _first(pieces, _MAX_KEY_BYTES)
        return "\0".join(pieces)[:_MAX_KEY_BYTES].encode()[:_MAX_KEY_BYTES]

    def n_tokens(self) -> int:
        """The estimate, at least 1."""
        n_chars = sum(map(len, self._pieces)) - self._n_uncounted
        return max(1, n_chars // _CHARS_PER_TOKEN)


def _first(pieces: list[str], n_chars: int) -> list[str]:
    """The first pieces, so many characters at least."""
    n_so_far = 0
    for n_pieces, piece in enumerate(pieces, 1):
        n_so_far += len(piece)
        if n_so_far >= n_chars:
            return pieces[:n_pieces]
    return pieces

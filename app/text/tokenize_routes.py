"""What ``/tokenize`` and ``/detokenize`` take and answer; the shapes are those of vLLM's server.

Beyond vLLM a list of prompts, or of token lists, is taken too, and answered with lists, as SMG
does.
"""

from __future__ import annotations

from typing import Any

from app.protocol.wire_json import JsonObject
from app.text.chat_messages import read_messages_soon
from app.text.chat_prompt import render
from app.text.field_rules import Anything, FieldTable, Flag, Object, Objects, Text, refuse
from app.text.served_model import ServedModel
from app.text.tool_choice import read_tools

_COMPLETION = FieldTable(
    {
        "prompt": Anything(),
        "add_special_tokens": Flag(),
        "return_token_strs": Flag(),
    }
)
_CHAT = FieldTable(
    {
        "messages": Objects(),
        "tools": Objects(),
        "documents": Objects(),
        "chat_template": Text(),
        "chat_template_kwargs": Object(),
        "add_generation_prompt": Flag(),
        "continue_final_message": Flag(),
        "add_special_tokens": Flag(),
        "return_token_strs": Flag(),
    },
    refused={"mm_processor_kwargs": ({},)},
)
_DETOKENIZE = FieldTable({"tokens": Anything(), "skip_special_tokens": Flag()})


async def tokenize(body: JsonObject, served: ServedModel) -> JsonObject:
    """Tokenizes a prompt, or the messages of a chat.

    Raises:
        InvalidRequest: There is neither, or a field is wrong.
    """
    is_chat = "messages" in body
    fields = (_CHAT if is_chat else _COMPLETION).read(body)
    if is_chat:
        messages = await read_messages_soon(fields.get("messages", []), served.tokenizer.pool)
        prompt = await render(fields, messages, read_tools(fields), served)
        texts: Any = prompt.text
    else:
        texts = fields.get("prompt")
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        refuse("prompt", "must be a string or a list of strings")
    # Chat templates write the special tokens themselves.
    adds = fields.get("add_special_tokens", not is_chat)
    encoded = await served.tokenizer.encode_all_soon(items, adds)
    tokens = [list(ids) for ids in encoded]
    counts = [len(ids) for ids in tokens]
    strings: Any = None
    if fields.get("return_token_strs", False):
        strings = await served.tokenizer.token_texts_soon(tokens)
    if isinstance(texts, str):
        return _tokenized(tokens[0], counts[0], strings and strings[0], served)
    return _tokenized(tokens, counts, strings, served)


def detokenize(body: JsonObject, served: ServedModel) -> JsonObject:
    """Turns token ids into text.

    Raises:
        InvalidRequest: They are no token ids, or none of this model.
    """
    fields = _DETOKENIZE.read(body)
    tokens = fields.get("tokens")
    if not isinstance(tokens, list):
        refuse("tokens", "must be a list of token ids")
    is_nested = bool(tokens) and all(isinstance(item, list) for item in tokens)
    n_vocab = served.tokenizer.n_vocab
    for ids in tokens if is_nested else [tokens]:
        if not all(type(token_id) is int and 0 <= token_id < n_vocab for token_id in ids):
            refuse("tokens", f"must hold token ids from 0 to {n_vocab - 1}")
    skips = fields.get("skip_special_tokens", False)
    decode = served.tokenizer.decode
    if is_nested:
        return {"prompt": [decode(ids, skip_special_tokens=skips) for ids in tokens]}
    return {"prompt": decode(tokens, skip_special_tokens=skips)}


def _tokenized(tokens: Any, count: Any, strings: Any, served: ServedModel) -> JsonObject:
    return {
        "count": count,
        "max_model_len": served.max_context,
        "tokens": tokens,
        "token_strs": strings,
    }

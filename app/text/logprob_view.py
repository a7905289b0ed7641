"""Logprobs in the shapes of chat, completions, vLLM's prompt extension and SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.protocol.engine import TokenLogprob
from app.protocol.wire_json import JsonObject
from app.text.token_view import TokenView, finite


def chat_logprobs(items: Sequence[TokenLogprob], n_top: int, view: TokenView) -> JsonObject:
    """Chat's shape: one object a token, each with its likeliest rivals."""
    return {"content": [_chat_entry(item, n_top, view) for item in items], "refusal": None}


def _chat_entry(item: TokenLogprob, n_top: int, view: TokenView) -> JsonObject:
    return {
        **_chat_token(item.token_id, item.logprob, view),
        "top_logprobs": [
            _chat_token(rival.token_id, rival.logprob, view) for rival in item.top[:n_top]
        ],
    }


def _chat_token(token_id: int, logprob: float | None, view: TokenView) -> JsonObject:
    return {
        "token": view.text(token_id),
        "logprob": finite(logprob),
        "bytes": view.bytes_of(token_id),
    }


def legacy_logprobs(
    items: Sequence[TokenLogprob], offsets: Sequence[int], n_top: int, view: TokenView
) -> JsonObject:
    """The older shape of completions: four lists, side by side.

    Args:
        items: The tokens.
        offsets: Where each begins in the choice's text, echo included.
        n_top: How many candidates are shown; with 0 there is no list of them, as in vLLM.
        view: Looks up tokens.
    """
    return {
        "tokens": [view.text(item.token_id) for item in items],
        "token_logprobs": [finite(item.logprob) for item in items],
        "top_logprobs": [_legacy_top(item, n_top, view) for item in items] if n_top else None,
        "text_offset": list(offsets),
    }


def _legacy_top(item: TokenLogprob, n_top: int, view: TokenView) -> JsonObject | None:
    if item.logprob is None:
        return None  # the first token of a prompt has neither a logprob nor rivals
    top = {view.text(rival.token_id): finite(rival.logprob) for rival in item.top[:n_top]}
    # The token itself is always there, as in OpenAI's.
    top.setdefault(view.text(item.token_id), finite(item.logprob))
    return top


def prompt_logprobs(items: Sequence[TokenLogprob], view: TokenView) -> list[JsonObject | None]:
    """The shape of vLLM: each token's candidates by id; the wire tells no ranks."""
    shown: list[JsonObject | None] = []
    for item in items:
        if item.logprob is None:
            shown.append(None)
            continue
        found = {item.token_id: item.logprob}
        for rival in item.top:
            found.setdefault(rival.token_id, rival.logprob)
        shown.append(
            {
                str(token_id): {
                    "logprob": finite(logprob),
                    "rank": None,
                    "decoded_token": view.text(token_id),
                }
                for token_id, logprob in found.items()
            }
        )
    return shown


def native_logprobs(
    items: Sequence[TokenLogprob], kind: str, view: TokenView, *, n_top: int, has_text: bool
) -> JsonObject:
    """SGLang's shape: triples of logprob, id and text (or null).

    Args:
        items: The tokens.
        kind: ``input`` or ``output``, in the members' names.
        view: Looks up tokens.
        n_top: How many candidates are shown; with 0 there is no list of them.
        has_text: The text is wanted.
    """

    def triple(token_id: int, logprob: float | None) -> list[Any]:
        return [finite(logprob), token_id, view.text(token_id) if has_text else None]

    members: JsonObject = {
        f"{kind}_token_logprobs": [triple(item.token_id, item.logprob) for item in items]
    }
    if n_top:
        members[f"{kind}_top_logprobs"] = [
            [triple(rival.token_id, rival.logprob) for rival in item.top[:n_top]] or None
            for item in items
        ]
    return members

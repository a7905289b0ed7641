"""Tokens and answers of the simulated model.

The answer names the prompt twice over: its words come from the request of
the decode leg, its *mark* only from the KV cache that prefill sent. An
answer whose mark is not the mark of its prompt is crosstalk.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

EOS_ID = 2
N_VOCABULARY = 49_152
_PIECES = re.compile(r"\s?[^\s]{1,4}|\s", re.DOTALL)
_WORDS = re.compile(r"\s*\S+")
_FILLER = (" The simulated engine has nothing to add, so it counts:",)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine sees it."""

    text: str
    ids: tuple[int, ...]

    @property
    def mark(self) -> str:
        """Eight hex digits that only this prompt has."""
        return mark_of(self.text)


def token_id(piece: str) -> int:
    """The same id for the same piece in every process, never EOS."""
    return 3 + zlib.crc32(piece.encode()) % (N_VOCABULARY - 3)


def tokenize(text: str) -> tuple[int, ...]:
    """About four characters a token; a prefix of text is a prefix of tokens."""
    return tuple(token_id(piece) for piece in _PIECES.findall(text))


def mark_of(text: str) -> str:
    """The nonce of a prompt that travels through the KV cache."""
    return blake2s(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def prompt_of_text(text: str) -> Prompt:
    """A prompt given as text."""
    return Prompt(text, tokenize(text))


def prompt_of_ids(ids: Sequence[int]) -> Prompt:
    """A prompt given as token ids; its text is their list."""
    return Prompt(" ".join(map(str, ids)), tuple(ids))


def prompt_of_chat(body: Mapping[str, Any]) -> Prompt:
    """A chat rendered by the simulated model's template."""
    turns = [f"<|tools|>{body['tools']}\n"] if body.get("tools") else []
    turns.extend(
        f"<|{message.get('role')}|>\n{_content(message.get('content'))}\n"
        for message in body["messages"]
    )
    return prompt_of_text("".join(turns) + "<|assistant|>\n")


def chat_mark(messages: Sequence[Mapping[str, Any]]) -> str:
    """The mark that the answer to these messages must carry."""
    return prompt_of_chat({"messages": messages}).mark


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", part)) for part in content)
    return "" if content is None else str(content)


def answer_pieces(prompt: Prompt, mark: str, n_max: int, ignore_eos: bool) -> list[str]:
    """At most ``n_max`` tokens of text; the natural end is an empty last piece.

    Args:
        prompt: What the decode leg was asked.
        mark: What came with the KV cache.
        n_max: Length limit in tokens.
        ignore_eos: Go on until the limit.
    """
    asked = re.sub(r"<\|\w+\|>", " ", prompt.text).split()[-24:]
    text = f"Simulated answer {mark}: you said “{' '.join(asked)}” ({len(prompt.ids)} tokens)."
    pieces: list[str] = _WORDS.findall(text)
    if not ignore_eos:
        return [*pieces, ""][:n_max]
    pieces += _WORDS.findall(_FILLER[0])
    pieces += [f" {i}" for i in range(1, n_max - len(pieces) + 1)]
    return pieces[:n_max]


def cut_at_stop(pieces: list[str], stops: Sequence[str]) -> tuple[list[str], str | None]:
    """The pieces before the first stop string, and which one it was."""
    text = ""
    for index, piece in enumerate(pieces):
        before = len(text)
        text += piece
        for stop in stops:
            at = text.find(stop)
            if stop and at >= 0:
                kept = [*pieces[:index], piece[: max(0, at - before)]]
                return kept, stop
    return pieces, None


def logprob(token: int) -> float:
    """A log probability that depends on the token only."""
    return -((token * 2654435761) % 4093) / 1024.0

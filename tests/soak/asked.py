"""Random requests, each with a nonce of its own and the marks that its answers must carry.

A simulated worker's answer names the *mark* of the prompt whose KV cache it was computed from: an
answer with another mark is crosstalk (see :mod:`app.sim.text`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.sim import chat_mark, mark_of
from app.text.tokenizer import Tokenizer

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
PREFACES = tuple(
    " ".join(f"{word} {i}" for i in range(40 * (at + 1)))
    for at, word in enumerate(("lorem", "ipsum", "dolor", "sit"))
)
"""Beginnings that many prompts share, so that prefix caches have work."""
MIN_TOKENS = {"sglang": 12, "vllm": 64}
"""Enough for the mark to be said."""
LONG_TEXTS = tuple(" ".join(f"{at * 7919 + i:x}" for i in range(8000)) for at in range(4))
"""About 40 kB each; few, so that what the gateway remembers of prefixes does not grow for ever."""


class Manner(StrEnum):
    """How a client behaves."""

    STAYS = "stays"
    READS_SLOWLY = "reads slowly"
    LEAVES_SENDING = "leaves while it sends"
    LEAVES_WAITING = "leaves while it waits"
    LEAVES_READING = "leaves in the middle of the answer"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        nonce: Stands in every prompt of it, and is its ``x-request-id``.
        marks: What each answer must carry, by the index of its choice.
        after: Of a client that leaves: seconds after sending, or events that it reads first.
    """

    fleet: str
    path: str
    body: bytes
    nonce: str
    marks: tuple[str, ...]
    is_stream: bool
    manner: Manner
    after: float = 0.0


ChatMark = Callable[[Sequence[Mapping[str, Any]]], str]


def vllm_chat_mark(folder: Path) -> ChatMark:
    """Marks of chats as the gateway renders them with a tokenizer folder."""
    template = Tokenizer.load(folder).chat
    assert template is not None

    def mark(messages: Sequence[Mapping[str, Any]]) -> str:
        return mark_of(template.render([dict(message) for message in messages]))

    return mark


class Asking:
    """Makes requests for one fleet, the same ones from the same seed.

    Args:
        fleet: The model's name.
        rng: Where everything is drawn from.
        chat_mark_of: How the fleet's workers mark a chat.
        is_vllm: Whether its tokens are smaller than words.
        leaving: Share of the clients that leave.
        slow: Share of those that read slowly.
        long: Share of the prompts that are long.
    """

    def __init__(
        self,
        fleet: str,
        rng: random.Random,
        chat_mark_of: ChatMark = chat_mark,
        *,
        is_vllm: bool = False,
        leaving: float = 0.08,
        slow: float = 0.03,
        long: float = 0.03,
    ) -> None:
        self._fleet = fleet
        self._rng = rng
        self._chat_mark_of = chat_mark_of
        self._min_tokens = MIN_TOKENS["vllm" if is_vllm else "sglang"]
        self._leaving = leaving
        self._slow = slow
        self._long = long

    def next(self) -> Asked:
        """One more request."""
        rng = self._rng
        nonce = f"nonce-{rng.getrandbits(64):016x}"
        path = rng.choices((CHAT, COMPLETIONS, GENERATE), (6, 3, 1))[0]
        is_stream = rng.random() < 0.6
        manner, after = self._manner()
        n_tokens = self._min_tokens + rng.choice((0, 0, 4, 40))
        if manner is Manner.READS_SLOWLY:
            n_tokens += 200
        made = {CHAT: self._chat, COMPLETIONS: self._completions, GENERATE: self._generate}[path]
        body, marks = made(nonce, n_tokens)
        body |= {"model": self._fleet, "stream": is_stream}
        data = json.dumps(body).encode()
        return Asked(self._fleet, path, data, nonce, marks, is_stream, manner, after)

    def _manner(self) -> tuple[Manner, float]:
        drawn = self._rng.random()
        if drawn < self._slow:
            return Manner.READS_SLOWLY, 0.0
        if drawn > self._slow + self._leaving:
            return Manner.STAYS, 0.0
        manner = self._rng.choice(
            (Manner.LEAVES_SENDING, Manner.LEAVES_WAITING, Manner.LEAVES_READING)
        )
        if manner is Manner.LEAVES_READING:
            return manner, self._rng.randint(1, 8)
        return manner, self._rng.choice((0.0, self._rng.uniform(0.0, 0.1)))

    def _text(self, nonce: str) -> str:
        """Ends with the nonce, so that it is said back and stands in the worker's log."""
        rng = self._rng
        preface = rng.choice((*PREFACES, ""))
        if rng.random() < self._long:
            preface = rng.choice(LONG_TEXTS)
        return f"{preface} {rng.getrandbits(32):x} {nonce}".lstrip()

    def _chat(self, nonce: str, n_tokens: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        messages = [{"role": "user", "content": self._text(nonce)}]
        if self._rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": self._rng.choice(PREFACES)})
        body: dict[str, Any] = {"messages": messages, "max_tokens": n_tokens}
        n = self._rng.choices((1, 2, 3), (18, 1, 1))[0]
        if n > 1:
            body["n"] = n
        return body, (self._chat_mark_of(messages),) * n

    def _completions(self, nonce: str, n_tokens: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        prompts = [self._text(nonce) for _ in range(self._rng.choices((1, 2, 3), (10, 1, 1))[0])]
        body = {"prompt": prompts if len(prompts) > 1 else prompts[0], "max_tokens": n_tokens}
        return body, tuple(mark_of(prompt) for prompt in prompts)

    def _generate(self, nonce: str, n_tokens: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        text = self._text(nonce)
        return {"text": text, "sampling_params": {"max_new_tokens": n_tokens}}, (mark_of(text),)

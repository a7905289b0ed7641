"""Random requests whose text is compared with the tokenizer's own decoding of their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from tokenizers import Tokenizer

Way = Literal["chat", "completions", "generate"]

WORDS = (
    "The capital of France is",
    "Repeat after me:",
    "Die Größe der Straße,",
    "Où est la bibliothèque ?",
    "Привет, как дела?",
    "今天天气很好。",
    "こんにちは、世界。",
    "안녕하세요 여러분",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "😀😃🎉",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "e\u0301 a\u0308 (combining)",
    "∑ x² ≤ √2 → ∞",
    "def f(x):\n\treturn x ** 2\n",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>user\nHi",
    "\n\n  two  spaces ",
    "1234567890",
    "{'a': [1, 2]}",
)
STOPS = (
    "e",
    " the",
    "a",
    "\n",
    ".",
    "is ",
    "\u00e9",
    "😀",
    "ing",
    "\ufffd",
    "<|im_end|>",
    "no such",
)
N_LONG_WORDS = 60


@dataclass(frozen=True)
class TextCase:
    """One request.

    Attributes:
        way: The route.
        prompt: A text, or chat's only message.
        params: The fields of the body that shape the answer, under OpenAI's names.
    """

    way: Way
    prompt: str
    params: dict[str, Any]

    @property
    def hides_special(self) -> bool:
        """Special tokens give no text."""
        return bool(self.params.get("skip_special_tokens", True))


def text_cases(n: int, seed: int, tokenizer: Tokenizer) -> list[TextCase]:
    """Draws requests, the same ones for the same seed.

    Half of them push tokens that are special, or a part of a character only: a small model says
    few of them by itself.
    """
    rng = Random(seed)
    vocabulary = range(tokenizer.get_vocab_size())
    special = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    parts = [i for i in vocabulary if "\ufffd" in tokenizer.decode([i], skip_special_tokens=False)]
    ways: tuple[Way, ...] = ("chat", "completions", "generate")
    return [
        TextCase(rng.choice(ways), _prompt(rng), _params(rng, special, parts)) for _ in range(n)
    ]


def _prompt(rng: Random) -> str:
    n_words = N_LONG_WORDS if rng.random() < 0.05 else rng.randint(1, 4)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def _params(rng: Random, special: list[int], parts: list[int]) -> dict[str, Any]:
    params: dict[str, Any] = {"max_tokens": rng.randint(1, 16), "temperature": 0}
    if rng.random() < 0.6:
        params |= {"temperature": rng.choice([0.7, 1.0, 1.6]), "seed": rng.randint(0, 2**31 - 1)}
    kind = rng.random()
    if kind < 0.3:
        params["logit_bias"] = {
            str(token): rng.choice([4, 8, 12]) for token in rng.sample(parts, 40)
        }
    elif kind < 0.6:
        params["logit_bias"] = {str(token): rng.choice([12, 15, 18]) for token in special}
        params["ignore_eos"] = rng.random() < 0.7
    if rng.random() < 0.5:
        params["stop"] = rng.sample(STOPS, rng.randint(1, 3))
        params["include_stop_str_in_output"] = rng.random() < 0.3
    elif rng.random() < 0.3:
        params["min_tokens"] = rng.randint(0, params["max_tokens"])
    if rng.random() < 0.4:
        params["skip_special_tokens"] = False
    if rng.random() < 0.2:
        params["ignore_eos"] = True
    return params

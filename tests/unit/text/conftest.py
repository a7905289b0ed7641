"""A small model for the text path: a real tokenizer, no worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.protocol.engine import Chunk, Complete
from app.sim.small_tokenizer import write_small_tokenizer
from app.text.answer import Envelope
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.served_model import ServedModel
from app.text.tokenizer import Tokenizer

ENVELOPE = Envelope("chatcmpl-1", 1795422858)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level, without BOS."""
    folder: Path = tmp_path_factory.mktemp("bytelevel")
    write_small_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def bos_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """SentencePiece-like, with BOS."""
    folder: Path = tmp_path_factory.mktemp("sentencepiece")
    write_small_tokenizer(folder, kind="sentencepiece")
    return Tokenizer.load(folder)


@pytest.fixture
def served(tokenizer: Tokenizer) -> ServedModel:
    """A model without parsers, 512 tokens of context."""
    return ServedModel("small", tokenizer, 512)


@pytest.fixture
def thinker(served: ServedModel) -> ServedModel:
    """The same with Qwen's thoughts and tool calls."""
    return replace(
        served,
        tool_format=tool_parsers.by_name("qwen"),
        thought_format=reasoning_parsers.by_name("qwen3"),
    )


@pytest.fixture
def envelope() -> Envelope:
    """The id and time of an answer."""
    return ENVELOPE


@pytest.fixture
def frames(tokenizer: Tokenizer) -> Callable[..., list[Chunk | Complete]]:
    """Makes the frames in which an engine streams a text, and ends it."""

    def make(
        text: str, *, size: int = 1, reason: str = "stop", eos: bool = False, **end: Any
    ) -> list[Chunk | Complete]:
        ids = tokenizer.encode(text, False)
        if eos:
            ids.append(min(tokenizer.eos_ids))
        parts = [ids[at : at + size] for at in range(0, len(ids), size)]
        chunks = [Chunk(tuple(part), 9, 4) for part in parts]
        last = tuple(parts[-1]) if parts else ()
        return [*chunks, Complete(last, reason, 9, len(last), 4, **end)]

    return make

"""A real tokenizer for the simulated vLLM model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as _FastTokenizer


class FolderTokenizer:
    """The ``tokenizer.json`` of a folder, with the EOS id of its ``config.json``."""

    def __init__(self, folder: Path) -> None:
        self._fast = _FastTokenizer.from_file(str(folder / "tokenizer.json"))
        eos = json.loads((folder / "config.json").read_text())["eos_token_id"]
        self.eos_id: int = eos[0] if isinstance(eos, list) else eos
        self.n_vocab: int = self._fast.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        text: str = self._fast.decode(list(ids), skip_special_tokens=False)
        return text

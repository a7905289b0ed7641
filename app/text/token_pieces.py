"""What each token id adds to a text, looked up instead of decoded.

Two families of decoders turn tokens into text one by one, so that a table
tells all there is to know: bytes (GPT-2, Llama 3, Qwen, DeepSeek) and
characters with a byte fallback (Llama 2, Gemma, Mistral). The table fills as
ids are seen. For every other decoder there is no table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers

_BYTE_TOKEN_CHARS = len("<0x00>")


class BytePieces(dict[int, bytes]):
    """Id -> bytes for decoders over bytes; empty for what is skipped or unknown."""

    def __init__(self, tokenizer: RustTokenizer, skipped: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped

    def __missing__(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""  # not kept: there is no end to unknown ids
        piece = b"" if token in self._skipped else _bytes_of(token)
        self[token_id] = piece
        return piece


class CharPieces(dict[int, "str | int | None"]):
    """Id -> text, or one byte as a number, or None for what is skipped or unknown."""

    def __init__(self, tokenizer: RustTokenizer, skipped: frozenset[str], space: str) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._space = space

    def __missing__(self, token_id: int) -> str | int | None:
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return None
        piece = None if token in self._skipped else self._piece(token.replace(self._space, " "))
        self[token_id] = piece
        return piece

    @staticmethod
    def _piece(token: str) -> str | int:
        is_byte = len(token) == _BYTE_TOKEN_CHARS and token[:3] == "<0x" and token[-1] == ">"
        try:
            return int(token[3:5], 16) if is_byte else token
        except ValueError:
            return token


@dataclass(frozen=True, slots=True)
class Pieces:
    """The tables of one tokenizer: all tokens, and special ones left out.

    Attributes:
        strips_first_space: A space at the very beginning of a text is dropped.
    """

    plain: BytePieces | CharPieces
    visible: BytePieces | CharPieces
    strips_first_space: bool = False

    def table(self, *, skip_special_tokens: bool) -> BytePieces | CharPieces:
        """The table that leaves special tokens out, or the one that has them."""
        return self.visible if skip_special_tokens else self.plain


def make_pieces(tokenizer: RustTokenizer) -> Pieces | None:
    """Returns the tables, or None when the decoder is of no known family."""
    special = frozenset(
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    )
    steps = _decoder_steps(tokenizer)
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return Pieces(BytePieces(tokenizer, frozenset()), BytePieces(tokenizer, special))
    if (space := _replaced_space(steps)) is None:
        return None
    return Pieces(
        CharPieces(tokenizer, frozenset(), space),
        CharPieces(tokenizer, special, space),
        strips_first_space=len(steps) == len(_CHAR_STEPS),
    )


_CHAR_STEPS = ("Replace", "ByteFallback", "Fuse", "Strip")


def _replaced_space(steps: list[dict[str, Any]]) -> str | None:
    """What stands for a space in a decoder over characters; None for another decoder."""
    types = tuple(step["type"] for step in steps)
    if types not in {_CHAR_STEPS, _CHAR_STEPS[:-1]}:
        return None
    strip = steps[-1]
    if strip["type"] == "Strip" and (strip["content"], strip["start"], strip["stop"]) != (
        " ",
        1,
        0,
    ):
        return None
    pattern = steps[0]["pattern"]
    is_space = steps[0]["content"] == " " and set(pattern) == {"String"}
    return pattern["String"] if is_space else None


def _decoder_steps(tokenizer: RustTokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return []
    document = json.loads(tokenizer.decoder.__getstate__())
    steps: list[dict[str, Any]] = document.get("decoders") or [document]
    return steps


def _alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as.

    Bytes that print stand for themselves; the others got the characters from
    U+0100 on, in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printing)]
    chars = {chr(byte): byte for byte in printing}
    chars |= {chr(0x100 + at): byte for at, byte in enumerate(others)}
    if chars.keys() != set(pre_tokenizers.ByteLevel.alphabet()):
        raise RuntimeError("The alphabet of byte-level tokenizers has changed.")
    return chars


_BYTE_OF_CHAR = _alphabet()


def _bytes_of(token: str) -> bytes:
    """One character outside of the alphabet, and the whole token is plain text."""
    try:
        return bytes([_BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode()

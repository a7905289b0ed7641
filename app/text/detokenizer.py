"""Token ids to text while they arrive.

The pieces joined are the tokenizer's own decoding of all ids together, given
the prompt before them, and do not depend on how the ids were split. No
character is sent in parts. ``tokenizers.decoders.DecodeStream`` (0.6 us a
token) is not used: it can not be flushed, decodes a run of broken bytes anew
with every token, and raises on bytes that become invalid after it showed
some. With the tables of ``token_pieces`` a token costs 0.3 us.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from app.text.token_pieces import BytePieces, CharPieces

if TYPE_CHECKING:
    from app.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_CHAR_BYTES = 4
_N_LEFT_TOKENS = 6
_MAX_HELD_TOKENS = 16


class _Text(Protocol):
    def feed(self, ids: Iterable[int]) -> str: ...
    def flush(self) -> str: ...


class Detokenizer:
    """Turns one answer's token ids into text.

    Args:
        tokenizer: Of the model that answers.
        prompt_ids: What the answer continues; decides about a leading space, and
            completes a character that the prompt ends in the middle of.
        skip_special_tokens: Special tokens give no text. Unknown ids never do.
        spaces_between_special_tokens: False: added tokens that follow each other are
            written without the spaces that some decoders put between tokens (vLLM's
            meaning; of no effect when special tokens are skipped).
    """

    __slots__ = ("_text", "feed", "flush")

    feed: Callable[[Iterable[int]], str]
    """Takes the next ids and returns the text that is complete with them."""

    flush: Callable[[], str]
    """Returns what is held; U+FFFD for bytes that never became a character."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        text: _Text
        table = tokenizer.piece_table(skip_special_tokens=skip_special_tokens)
        if isinstance(table, BytePieces):
            text = _ByteText(table, prompt_ids)
        elif isinstance(table, CharPieces):
            strips = tokenizer.strips_first_space
            text = _CharText(table, prompt_ids, strips_first_space=strips)
        else:
            joined = () if skip_special_tokens or spaces_between_special_tokens else None
            text = _WindowText(
                lambda ids: tokenizer.decode(ids, skip_special_tokens=skip_special_tokens),
                prompt_ids,
                tokenizer.added_tokens if joined is None else {},
            )
        self._text = text
        self.feed = text.feed
        self.flush = text.flush


class _ByteText:
    """Tokens are bytes; all that is left is UTF-8."""

    __slots__ = ("_is_inside", "_pieces", "_utf8")

    def __init__(self, pieces: BytePieces, prompt_ids: Sequence[int]) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for token_id in reversed(prompt_ids):
            tail = pieces[token_id] + tail
            if len(tail) >= _MAX_CHAR_BYTES:
                break
        self._is_inside = False
        self._take(tail)

    def feed(self, ids: Iterable[int]) -> str:
        data = b"".join(map(self._pieces.__getitem__, ids))
        if not self._is_inside:
            try:
                return data.decode()  # the usual case, in a third of the time
            except UnicodeDecodeError:
                pass
        return self._take(data)

    def flush(self) -> str:
        self._is_inside = False
        return self._utf8.decode(b"", final=True)

    def _take(self, data: bytes) -> str:
        text = self._utf8.decode(data)
        self._is_inside = bool(self._utf8.getstate()[0])
        return text


class _CharText:
    """Tokens are text or single bytes.

    A run of bytes is either whole UTF-8, or each byte of it is a U+FFFD. The
    tokenizer knows that only at the run's end; here a character is sent as
    soon as it is there, and a run that turns out broken afterwards keeps it.
    """

    __slots__ = ("_is_broken", "_is_first", "_pieces", "_run")

    def __init__(
        self, pieces: CharPieces, prompt_ids: Sequence[int], *, strips_first_space: bool
    ) -> None:
        self._pieces = pieces
        self._run = bytearray()
        self._is_broken = False
        self._is_first = False
        for at in range(len(prompt_ids) - 1, -1, -1):
            if isinstance(pieces[prompt_ids[at]], str):
                break
        else:
            at = -1
        self.feed(prompt_ids[at + 1 :])
        is_empty = all(pieces[token_id] in {None, ""} for token_id in prompt_ids)
        self._is_first = strips_first_space and is_empty

    def feed(self, ids: Iterable[int]) -> str:
        texts = []
        for token_id in ids:
            piece = self._pieces[token_id]
            if isinstance(piece, str):
                if self._run or self._is_broken:
                    texts.append(self.flush())
                texts.append(piece)
            elif piece is not None:
                texts.append(self._take_byte(piece))
        return self._strip("".join(texts))

    def flush(self) -> str:
        """Ends a run of bytes."""
        text = _REPLACEMENT * len(self._run)
        self._run.clear()
        self._is_broken = False
        return text

    def _take_byte(self, byte: int) -> str:
        if self._is_broken:
            return _REPLACEMENT
        self._run.append(byte)
        try:
            text = self._run.decode()
        except UnicodeDecodeError as fault:
            if fault.reason == "unexpected end of data":
                return ""
            text = self.flush()
            self._is_broken = True
            return text
        self._run.clear()
        return text

    def _strip(self, text: str) -> str:
        if not self._is_first or not text:
            return text
        self._is_first = False
        return text.removeprefix(" ")


class _WindowText:
    """Any decoder: what the newest tokens add to the text of those before them.

    Decodes the last few tokens with each new one. Text is held while it ends
    with U+FFFD, which may become a character, but not for more than 16 tokens.
    """

    __slots__ = ("_added", "_decode", "_ids", "_is_after_added", "_n_left", "_n_sent")

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        prompt_ids: Sequence[int],
        added: dict[int, str],
    ) -> None:
        self._decode = decode
        self._added = added
        self._is_after_added = False
        self._ids = list(prompt_ids[-_N_LEFT_TOKENS:])
        self._n_left = len(self._ids)
        self._n_sent = len(decode(self._ids))

    def feed(self, ids: Iterable[int]) -> str:
        return "".join(map(self._take, ids))

    def flush(self) -> str:
        text = self._decode(self._ids)[self._n_sent :]
        self._n_sent += len(text)
        return text

    def _take(self, token_id: int) -> str:
        content = self._added.get(token_id)
        is_joined = content is not None and self._is_after_added
        self._is_after_added = content is not None
        self._ids.append(token_id)
        new = self._decode(self._ids)[self._n_sent :]
        is_long = len(self._ids) - self._n_left > _MAX_HELD_TOKENS
        if not is_long and (not new or new.endswith(_REPLACEMENT)):
            return ""
        self._ids = self._ids[self._n_left :]
        self._n_left = len(self._ids)
        self._n_sent = len(self._decode(self._ids))
        return content if content is not None and is_joined else new

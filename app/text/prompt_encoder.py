"""Encodes prompts, and keeps the parts that it encoded: what comes again is looked up.

Two caches, both of parts that :class:`TextCuts` proves to be independent of what is around them:

- *messages*: a text from one added token to the next, such as a system prompt, or all earlier
  messages of a conversation; whole prompts, where a tokenizer has no such tokens. Limited by
  ``--tokenizer-cache-l1-max-memory``.
- *words*: of those messages that are new. A word is a dictionary's look-up, a seventh of what the
  tokenizer takes. A few megabytes, whatever the texts are.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tokenizers import Tokenizer as RustTokenizer

from app.errors import InvalidRequest
from app.protocol.token_ids import TokenIds
from app.text.text_cuts import TextCuts, ends_word

MESSAGES_BYTES = 50 * 1024 * 1024
"""Default of SMG 1.13 for the same cache."""
_WORDS_BYTES = 16 * 1024 * 1024
_MAX_WORD_CHARS = 64
# Of an entry beside its letters and ids: two objects and their place in a table.
_ENTRY_BYTES = 200


class KeptParts:
    """Ids of parts of texts; when it is full, those that were not asked for lately are dropped.

    Two tables: what is found in the older one moves to the newer one, and when that holds half of
    the limit it becomes the older one. So a look-up costs no order of use.

    Args:
        max_bytes: Limit of both together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_half_bytes = max_bytes // 2
        self._n_bytes = 0
        self._old: dict[str, bytes] = {}
        self.new: dict[str, bytes] = {}

    def get(self, part: str) -> bytes | None:
        """Its ids, if they are known."""
        found = self.new.get(part)
        if found is None and (found := self._old.get(part)) is not None:
            self.put(part, found)
        return found

    def put(self, part: str, ids: bytes) -> None:
        """Keeps them, unless they alone would take half of the limit."""
        # A text takes one, two or four bytes a letter.
        n_bytes = len(part) * (1 if part.isascii() else 4) + len(ids) + _ENTRY_BYTES
        if n_bytes > self._max_half_bytes:
            return
        if self._n_bytes + n_bytes > self._max_half_bytes:
            self._old, self.new, self._n_bytes = self.new, {}, 0
        self._n_bytes += n_bytes
        self.new[part] = ids


class Draft:
    """A prompt, part by part.

    Attributes:
        ids: Of each part; empty where they are yet to be found.
        missing: Those parts, with their places.
    """

    __slots__ = ("ids", "missing")

    def __init__(self, ids: list[bytes], missing: list[tuple[int, str]]) -> None:
        self.ids = ids
        self.missing = missing

    def whole(self) -> TokenIds:
        """All ids."""
        return TokenIds(b"".join(self.ids))


class PromptEncoder:
    """Encodes without further special tokens. Its methods may be called in any thread.

    Args:
        tokenizer: Of one model.
        max_bytes: Limit of the kept messages; 0 keeps none, and no words.
    """

    def __init__(self, tokenizer: RustTokenizer, max_bytes: int = MESSAGES_BYTES) -> None:
        self._tokenizer = tokenizer
        self._cuts = TextCuts(tokenizer)
        self._messages = KeptParts(max_bytes)
        self._starts = KeptParts(_WORDS_BYTES // 4)
        self._words = KeptParts(_WORDS_BYTES)
        self._lock = threading.Lock()
        self.has_words = self._cuts.has_words and max_bytes > 0
        """New text is looked up by words, which takes a fraction of encoding it."""

    def look(self, text: str) -> Draft:
        """What is known of a prompt: quick, however long it is (0.5 ms for 500 KB)."""
        ids: list[bytes] = []
        missing: list[tuple[int, str]] = []
        with self._lock:
            for at, part in enumerate(self._cuts.parts(text)):
                found = self._messages.get(part)
                if found is None:
                    missing.append((at, part))
                ids.append(found or b"")
        return Draft(ids, missing)

    def fill(self, draft: Draft, found: Sequence[bytes]) -> TokenIds:
        """Completes a prompt, and keeps what was encoded for it.

        Args:
            draft: What :meth:`look` gave.
            found: Ids of its missing parts.
        """
        with self._lock:
            for (at, part), ids in zip(draft.missing, found, strict=True):
                draft.ids[at] = ids
                self._messages.put(part, ids)
        return draft.whole()

    def encode(self, part: str) -> bytes:
        """Encodes one part, word by word where that is the same.

        Raises:
            InvalidRequest: It holds half a surrogate pair.
        """
        if not self.has_words:
            return encode_now(self._tokenizer, [part])[0]
        words = part.split(" ")
        # Of every ten words nine are known; only those that may be cut off are ever kept.
        found = list(map(self._words.new.get, words))
        found[0] = self._starts.new.get(words[0])
        if None in found:
            self._encode_new(words, found)
        return b"".join(found)  # type: ignore[arg-type] # none is None any more

    def encode_all(self, parts: Sequence[str]) -> list[bytes]:
        """Encodes several parts; as :meth:`encode`."""
        return [self.encode(part) for part in parts]

    def _encode_new(self, words: list[str], found: list[bytes | None]) -> None:
        """Joins what cannot be cut apart, and encodes what is not known, all at once."""
        missing: list[tuple[int, str]] = []
        end = 0
        with self._lock:
            for at in [at for at, ids in enumerate(found) if ids is None]:
                if at < end:
                    continue
                end = at + 1
                while end < len(words) and not ends_word(words[end - 1]):
                    end += 1
                chunk = " ".join(words[at:end])
                ids = (self._words if at else self._starts).get(chunk)
                if ids is None:
                    missing.append((at, chunk))
                found[at:end] = [ids or b"", *[b""] * (end - at - 1)]
        encoded = encode_now(self._tokenizer, [f" {c}" if at else c for at, c in missing])
        with self._lock:
            for (at, chunk), ids in zip(missing, encoded, strict=True):
                found[at] = ids
                if len(chunk) <= _MAX_WORD_CHARS and ends_word(chunk):
                    (self._words if at else self._starts).put(chunk, ids)


def encode_now(tokenizer: RustTokenizer, texts: list[str]) -> list[bytes]:
    """Encodes texts one by one, without further special tokens; the ids as bytes.

    Raises:
        InvalidRequest: A text holds half a surrogate pair.
    """
    try:
        # encode() would hold the interpreter lock all the while; this one does not.
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):  # all that it says of such a text
        raise InvalidRequest("The prompt holds half of a surrogate pair.") from None
    return [TokenIds(encoding.ids).tobytes() for encoding in encodings]

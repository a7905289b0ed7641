"""The tokenizer of one model: text to ids, ids to text, and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from app.errors import InvalidRequest
from app.protocol.token_ids import TokenIds
from app.text.chat_template import ChatTemplate
from app.text.detokenizer import Detokenizer
from app.text.encoding_children import EncodingChildren
from app.text.encoding_pool import EncodingPool
from app.text.prompt_encoder import MESSAGES_BYTES, PromptEncoder
from app.text.rust_tokenizer import read_rust_tokenizer
from app.text.template_files import read_templates
from app.text.token_pieces import BytePieces, CharPieces, make_pieces
from app.text.tokenizer_files import TokenizerFiles, find_folder, read_files

# Encoding so many characters takes 0.2 ms; a thread costs 0.05 to 0.1 ms more.
_MAX_INLINE_CHARS = 1024
# By words, of which the most are known: 0.2 ms, or 1.5 ms if none is.
_MAX_INLINE_WORD_CHARS = 6144
# A process costs 0.2 ms; in a thread, so many would share the loop's lock for several.
_MIN_CHILD_CHARS = 65_536
# Decoding so many takes about as long.
_MAX_INLINE_IDS = 4096
# Words, white space, several scripts, an emoji of several code points.
_SAMPLE = (
    "A  fine day, \u00e9t\u00e9!\n\t42 \u4e16\u754c \u0935\u093f \U0001f469\u200d\U0001f4bb x=1;"
)


class Tokenizer:
    """Encodes and decodes as the model's own tokenizer does.

    Args:
        tokenizer: The tokenizer itself.
        files: What the files beside it say.
        chat: Its chat template, if it has one.
        pool: Threads for long texts; an own one when left out.
        children: Processes for the longest ones.
        max_cache_bytes: Limit of the parts of prompts that are kept.

    Attributes:
        named_tokens: ``bos_token`` and the like, and what they stand for in templates.
        eos_ids: Ids that end an answer: those of config.json, of generation_config.json
            and the tokenizer's own.
        bos_id: The id that begins a text, if the model has one.
        n_vocab: One above the largest id that the model or the tokenizer knows.
        max_length: Tokens the files allow, if they say; a worker may allow fewer or more.
        special_ids: Ids that ``skip_special_tokens`` leaves out.
        added_tokens: Id to text of tokens that were added to the vocabulary.
        strips_first_space: A space at the very beginning of a text is not shown.
    """

    def __init__(
        self,
        tokenizer: RustTokenizer,
        files: TokenizerFiles,
        chat: ChatTemplate | None,
        pool: EncodingPool | None = None,
        *,
        children: EncodingChildren | None = None,
        max_cache_bytes: int = MESSAGES_BYTES,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer, max_cache_bytes)
        self._children = children
        self._adds_tokens = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
        self.chat = chat
        self.pool = pool or EncodingPool()
        added = tokenizer.get_added_tokens_decoder()
        names = self.named_tokens = files.special_tokens()
        self.added_tokens: dict[int, str] = {at: token.content for at, token in added.items()}
        self.special_ids = frozenset(at for at, token in added.items() if token.special)
        own_eos = self.token_id(names.get("eos_token", ""))
        self.eos_ids = frozenset({*files.eos_ids(), *([] if own_eos is None else [own_eos])})
        self.bos_id = self.token_id(names.get("bos_token", ""))
        self.n_vocab = max(
            files.vocabulary_size(),
            tokenizer.get_vocab_size(with_added_tokens=False),
            1 + max(added, default=-1),
        )
        self.max_length = files.max_length()
        self._pieces = make_pieces(tokenizer)
        self.strips_first_space = self._pieces is not None and self._pieces.strips_first_space
        if self._pieces is not None and not self._decodes_as_tokenizer():
            self._pieces = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        chat_template: str | None = None,
        *,
        pool: EncodingPool | None = None,
        n_processes: int = 0,
        max_cache_bytes: int = MESSAGES_BYTES,
    ) -> Tokenizer:
        """Loads from a folder or a hub id; takes 0.1 to 1 s, so not on the event loop.

        Args:
            source: Folder with tokenizer.json or an older form, or a model id of the hub.
            chat_template: The operator's own: a file, a template's text, or the name of
                one of the model's templates. Wins over the model's.
            pool: Threads for long texts; an own one when left out.
            n_processes: Processes for the longest ones, which read the same files; 0: threads.
            max_cache_bytes: Limit of the parts of prompts that are kept.

        Raises:
            TokenizerNotLoaded: One sentence: which folder or id, and what is missing or wrong.
        """
        folder = find_folder(str(source))
        files = read_files(folder)
        tokenizer = read_rust_tokenizer(files)
        templates = read_templates(folder, files.tokenizer_config, chat_template)
        chat = ChatTemplate(templates, files.special_tokens()) if templates else None
        children = EncodingChildren(folder, n_processes) if n_processes else None
        return cls(tokenizer, files, chat, pool, children=children, max_cache_bytes=max_cache_bytes)

    def close(self) -> None:
        """Ends the processes."""
        if self._children is not None:
            self._children.close()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Returns the ids; about 0.5 us a character.

        Args:
            text: The prompt.
            add_special_tokens: True for plain prompts (BOS as the model has it), False for
                what a chat template made, which holds it already.

        Raises:
            InvalidRequest: The text holds half a surrogate pair.
        """
        try:
            # encode() would hold the interpreter lock all the while; this one does not.
            encodings = self._tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        except (TypeError, UnicodeEncodeError):  # all that it says of such a text
            raise InvalidRequest("The prompt holds half of a surrogate pair.") from None
        ids: list[int] = encodings[0].ids
        return ids

    async def encode_soon(self, text: str, add_special_tokens: bool) -> Sequence[int]:
        """Encodes what is not known yet; off the event loop when that is long.

        Raises:
            InvalidRequest: The text holds half a surrogate pair.
            CapacityError: Too many texts wait.
        """
        if add_special_tokens and self._adds_tokens:
            if len(text) <= _MAX_INLINE_CHARS:
                return TokenIds(self.encode(text, True))
            return await self.pool.run(lambda: TokenIds(self.encode(text, True)))
        encoder = self._encoder
        draft = encoder.look(text)
        if not draft.missing:
            return draft.whole()
        parts = [part for _, part in draft.missing]
        n_chars = sum(map(len, parts))
        here = partial(encoder.encode_all, parts)
        if n_chars <= (_MAX_INLINE_WORD_CHARS if encoder.has_words else _MAX_INLINE_CHARS):
            found: Sequence[bytes] = here()
        elif n_chars < _MIN_CHILD_CHARS or self._children is None:
            found = await self.pool.run(here)
        else:
            found = await self._children.encode(parts, here)
            ids = encoder.fill(draft, found)
            # It takes two milliseconds for each leg's 128k tokens, without the lock.
            await self.pool.run(ids.pack)
            return ids
        return encoder.fill(draft, found)

    async def encode_all_soon(
        self, texts: Sequence[str], add_special_tokens: bool
    ) -> Sequence[Sequence[int]]:
        """Encodes several texts; in a thread when they are long together.

        Raises:
            InvalidRequest: A text holds half a surrogate pair.
            CapacityError: Too many texts wait.
        """
        if len(texts) == 1:
            return [await self.encode_soon(texts[0], add_special_tokens)]

        def encode_all() -> list[TokenIds]:
            return [TokenIds(self.encode(text, add_special_tokens)) for text in texts]

        if sum(map(len, texts)) <= _MAX_INLINE_CHARS:
            return encode_all()
        return await self.pool.run(encode_all)

    async def decode_soon(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Decodes a whole list; in a thread when it is long.

        Raises:
            CapacityError: Too many texts wait.
        """
        if len(ids) <= _MAX_INLINE_IDS:
            return self.decode(ids, skip_special_tokens)
        return await self.pool.run(partial(self.decode, ids, skip_special_tokens))

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """Decodes a whole list; unknown ids give no text."""
        if spaces_between_special_tokens or skip_special_tokens:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        text = Detokenizer(self, skip_special_tokens=False, spaces_between_special_tokens=False)
        return text.feed(ids) + text.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """What one token adds to a text that is under way; it may be half a character."""
        piece = self._pieces.plain[token_id] if self._pieces is not None else None
        if isinstance(piece, bytes):
            return piece
        if isinstance(piece, int):
            return bytes([piece])
        if isinstance(piece, str):
            return piece.encode()
        return self._tokenizer.decode([token_id], skip_special_tokens=False).encode()

    def token_text(self, token_id: int) -> str:
        """``token_bytes`` as text, U+FFFD for what is no whole character."""
        return self.token_bytes(token_id).decode(errors="replace")

    async def token_texts_soon(self, lists: Sequence[Sequence[int]]) -> list[list[str]]:
        """``token_text`` of every token; in a thread when there are many.

        Raises:
            CapacityError: Too many texts wait.
        """

        def token_texts() -> list[list[str]]:
            return [[self.token_text(token_id) for token_id in ids] for ids in lists]

        if sum(map(len, lists)) <= _MAX_INLINE_IDS:
            return token_texts()
        return await self.pool.run(token_texts)

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary writes it; None for an unknown id."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token

    def token_id(self, token: str) -> int | None:
        """The id of a token, given as the vocabulary writes it; None if it has none."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def piece_table(self, *, skip_special_tokens: bool) -> BytePieces | CharPieces | None:
        """What each id adds to a text; None when only the decoder itself can tell."""
        if self._pieces is None:
            return None
        return self._pieces.table(skip_special_tokens=skip_special_tokens)

    def _decodes_as_tokenizer(self) -> bool:
        """The tables agree with the decoder on a sample and on every added token."""
        ids = [*self.encode(_SAMPLE, False), *sorted(self.added_tokens)]
        for skips in (True, False):
            text = Detokenizer(self, skip_special_tokens=skips)
            expected = self._tokenizer.decode(ids, skip_special_tokens=skips)
            if text.feed(ids) + text.flush() != expected:
                return False
        return True

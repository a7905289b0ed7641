"""Where a text may be cut so that the parts, encoded one by one, give the tokens of the whole.

Two kinds of places, both found in the tokenizer's own description:

*Before added tokens.* They are taken out of a text before anything else sees it, and what lies
between them is normalized and split by itself. So a part that begins with an added token and ends
before the next one is encoded as it is in the whole. Not before tokens that look beyond their own
letters: those that take the white space on their left, or want to be a word of their own.

*Before spaces*, where a pattern that is known letter by letter splits the text into words. None of
these patterns goes on with a space behind a character that is no white space, and none looks back.

Source: tokenizers 0.23 (``added_vocabulary.rs``, ``pre_tokenizers``); the patterns are those of
GPT-2, GPT-4 (Llama 3), Qwen 2, Qwen 3.5, GPT-4o (gpt-oss), as transformers 5 has them, and
DeepSeek 3.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACE
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_GPT_4 = rf"{_ENDING}{_WORD}\p{{N}}{{1,3}}{_REST}"
_QWEN_2 = rf"{_ENDING}{_WORD}\p{{N}}{_REST}"
_QWEN_3_5 = (
    _ENDING + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACE
)
_GPT_4O = (
    rf"{_UPPER}*{_LOWER}+{_ENDING}?|{_UPPER}+{_LOWER}*{_ENDING}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACE
)
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _SPACE,
)
PATTERNS = ((_GPT_4,), (_QWEN_2,), (_QWEN_3_5,), (_GPT_4O,), _DEEPSEEK_3)
"""One after the other, the patterns of a tokenizer's steps."""
_MAX_PARTS = 4096
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


class TextCuts:
    """The cuts that one tokenizer allows.

    Args:
        tokenizer: It.

    Attributes:
        has_words: Texts may be cut before spaces, where :func:`ends_word` agrees.
    """

    def __init__(self, tokenizer: RustTokenizer) -> None:
        model = tokenizer.model
        kind = type(model).__name__
        # Anybody may have made a model of his own; with dropout no two encodings are the same.
        is_exact = kind in _MODELS and not getattr(model, "dropout", None)
        added = list(tokenizer.get_added_tokens_decoder().values())
        self._starts = _starts(added) if is_exact else None
        self.has_words = (
            is_exact
            and kind == "BPE"
            and not any(map(_bars_words, added))
            # It joins marks with the letter before them; a space is neither.
            and _form(tokenizer.normalizer) in (None, {"type": "NFC"})
            and _cuts_words(_form(tokenizer.pre_tokenizer))
        )

    def parts(self, text: str) -> list[str]:
        """Cuts a text before its added tokens; a text of one part comes back as it is."""
        starts = self._starts
        if starts is None:
            return [text]
        pattern, sound = starts
        found = islice(pattern.finditer(text), _MAX_PARTS)
        cuts = [match.start() for match in found if match[0] in sound]
        if not cuts or cuts == [0]:
            return [text]
        # A text of nothing but added tokens would take a second: its rest stays in one piece.
        if cuts[0]:
            cuts.insert(0, 0)
        ends = [*cuts[1:], len(text)]
        return [text[start:end] for start, end in zip(cuts, ends, strict=True)]


def ends_word(part: str) -> bool:
    """Whether a cut may follow: the part's last character is white space for no pattern."""
    last = part[-1:]
    return "!" <= last <= "~" or last.isalnum()


def _starts(added: list[AddedToken]) -> tuple[re.Pattern[str], frozenset[str]] | None:
    """What finds the added tokens as the tokenizer does, and before which of them it may be cut.

    The longest of those that begin first is taken, and the search goes on behind it.
    """
    raw = [token for token in added if not token.normalized and token.content]
    sound = frozenset(
        token.content
        for token in raw
        if not (token.lstrip or token.single_word or token.content[0].isspace())
    )
    if not sound:
        return None
    return re.compile(_any_of([token.content for token in raw])), sound


def _any_of(texts: list[str]) -> str:
    """A pattern of several texts, the longest first, letter by letter.

    Hundreds of texts that begin alike, one after the other, would each be tried at each place.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _branches(tree)


def _branches(tree: dict[str, Any]) -> str:
    # A run of single branches is written in one go: texts are longer than Python may be deep.
    head = ""
    while len(tree) == 1 and "" not in tree:
        [(letter, tree)] = tree.items()
        head += re.escape(letter)
    rest = [re.escape(letter) + _branches(below) for letter, below in tree.items() if letter]
    if not rest:
        return head
    return f"{head}(?:{'|'.join(rest)}){'?' if '' in tree else ''}"


def _bars_words(token: AddedToken) -> bool:
    """Whether a cut before a space could hide an added token or the space that belongs to it."""
    has_space = any(map(str.isspace, token.content))
    return token.lstrip or token.rstrip or token.single_word or has_space


def _form(piece: Any) -> Any:
    """A piece of a tokenizer as tokenizer.json writes it."""
    return None if piece is None else json.loads(piece.__getstate__())


def _cuts_words(form: Any) -> bool:
    """Known patterns, and then bytes as letters, with GPT-2's pattern where there is no other."""
    if form is None:
        return False
    *splits, last = form["pretokenizers"] if form["type"] == "Sequence" else [form]
    is_bytes = last["type"] == "ByteLevel" and not last["add_prefix_space"]
    if not is_bytes or last.get("use_regex", True) is bool(splits):
        return False
    patterns = tuple(map(_pattern, splits))
    return not patterns or patterns in PATTERNS


def _pattern(step: dict[str, Any]) -> str | None:
    """What a step splits by, if it does nothing else."""
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return None
    found: str | None = step["pattern"].get("Regex")
    return found

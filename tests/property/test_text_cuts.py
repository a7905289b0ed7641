"""A prompt encoded in parts has the tokens of the whole, for every kind of tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from app.sim.small_tokenizer import Kind, write_small_tokenizer
from app.text.prompt_encoder import PromptEncoder
from app.text.text_cuts import PATTERNS

Change = Callable[[RustTokenizer], object]
FRAGMENTS = [
    *("word", "the", "Don't", "I'LL", "caf\u00e9", "e\u0301", "\u4e16\u754c", "\u3042", "123456"),
    *(
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x85",
        "\x1c",
        "\u200b",
    ),
    *(".", "!?", '"', "//", "'", "-", "\u3002", "\U0001f469\u200d\U0001f4bb", "\u0935\u093f"),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<tool_call>",
        "</think>",
        "<|im_",
        "<",
        "<s>",
        "<|r1|>",
        "<|r12|>",
        "<|r1",
        "[X]",
        "[X]b",
    ),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=30).map("".join)


def add(text: str, **how: bool) -> Change:
    """A change that adds a token."""
    return lambda made: made.add_tokens([AddedToken(text, **how)])


def split_by(*patterns: str) -> Change:
    """A change that makes words by these patterns."""

    def change(made: RustTokenizer) -> None:
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])

    return change


def change_normalizer(made: RustTokenizer) -> None:
    """Texts are lowered, and begin with a letter of the tokenizer's own."""
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Prepend("_")])


def use_nfc(made: RustTokenizer) -> None:
    """As Qwen does."""
    made.normalizer = normalizers.NFC()


def prepend_first(made: RustTokenizer) -> None:
    """Only the very first word gets a space."""
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


CASES: dict[str, tuple[Kind, tuple[Change, ...], bool]] = {
    "gpt-2": ("bytelevel", (), True),
    **{f"patterns {at}": ("bytelevel", (split_by(*p),), True) for at, p in enumerate(PATTERNS)},
    "nfc": ("bytelevel", (split_by(*PATTERNS[1]), use_nfc), True),
    "normalized token": ("bytelevel", (add("[X]", normalized=True),), True),
    "longer token": (
        "bytelevel",
        (add("[X]", special=True), add("[X]b", special=True)),
        True,
    ),
    "many alike": (
        "bytelevel",
        tuple(add(f"<|r{at}|>", special=True) for at in range(40)),
        True,
    ),
    "unknown pattern": ("bytelevel", (split_by(r"\w+ ?"),), False),
    "lowered": ("bytelevel", (change_normalizer,), False),
    "eats left": ("bytelevel", (add("[X]", lstrip=True, special=True),), False),
    "eats right": ("bytelevel", (add("[X]", rstrip=True, special=True),), False),
    "a word": ("bytelevel", (add("[X]", single_word=True, special=True),), False),
    "with a space": ("bytelevel", (add("the word", normalized=False),), False),
    "begins with a space": ("bytelevel", (add(" <s>", special=True),), False),
    "sentencepiece": ("sentencepiece", (), False),
    "metaspace": ("sentencepiece", (prepend_first,), False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of both kinds."""
    made = tmp_path_factory.mktemp("models")
    for kind in ("bytelevel", "sentencepiece"):
        write_small_tokenizer(made / kind, kind=kind)
    return made


@pytest.mark.parametrize("case", CASES)
def test_parts_make_the_whole(folder: Path, case: str) -> None:
    """Anew, and again from what was kept."""
    kind, changes, has_words = CASES[case]
    tokenizer = RustTokenizer.from_file(str(folder / kind / "tokenizer.json"))
    for change in changes:
        change(tokenizer)
    encoder = PromptEncoder(tokenizer, max_bytes=20_000)
    assert encoder.has_words is has_words
    chat = "<|im_start|>user\nthe word<|im_end|>\n<|im_start|>assistant\n"
    assert len(encoder.look(chat).missing) > 1

    @settings(max_examples=120, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        whole = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        for _ in range(2):
            draft = encoder.look(text)
            found = encoder.encode_all([part for _, part in draft.missing])
            assert encoder.fill(draft, found) == whole
        assert len(whole) == 0 or not encoder.look(text).missing

    check()


def test_texts_that_would_take_long(folder: Path) -> None:
    """Text that nearly is an added token all over, or nothing else, is looked at quickly."""
    tokenizer = RustTokenizer.from_file(str(folder / "bytelevel" / "tokenizer.json"))
    reserved = [f"<|reserved_special_token_{at}|>" for at in range(2000)]
    tokenizer.add_tokens([AddedToken(text, special=True) for text in reserved])
    encoder = PromptEncoder(tokenizer)
    for text, n_most in (("<|reserved_special_token_" * 40_000, 1), ("<think>" * 150_000, 4096)):
        begun_s = time.process_time()
        assert len(encoder.look(text).missing) <= n_most
        assert time.process_time() - begun_s < 1.0

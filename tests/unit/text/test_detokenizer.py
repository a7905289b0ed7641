"""Token ids to text: left context, held bytes, special tokens, broken bytes, cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.sim.small_tokenizer import Kind, write_small_tokenizer
from app.text.detokenizer import Detokenizer
from app.text.tokenizer import Tokenizer

Load = Callable[[Kind], Tokenizer]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads the small tokenizer of a kind."""
    made: dict[Kind, Tokenizer] = {}

    def get(kind: Kind) -> Tokenizer:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp(kind)
            write_small_tokenizer(folder, kind=kind)
            made[kind] = Tokenizer.load(folder)
        return made[kind]

    return get


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The ids of single bytes in the SentencePiece kind."""
    ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in data]
    return [token_id for token_id in ids if token_id is not None]


def test_first_token_keeps_its_space_after_a_prompt(load: Load) -> None:
    """With a prompt the answer continues it; without one the space is no part of the text."""
    tokenizer = load("sentencepiece")
    the = tokenizer.token_id("\u2581the")
    assert the is not None
    prompt = tokenizer.encode("What is", True)
    assert Detokenizer(tokenizer, prompt).feed([the]) == " the"
    assert Detokenizer(tokenizer).feed([the]) == "the"
    # Only BOS before it, which is not shown: the text begins here.
    assert Detokenizer(tokenizer, prompt[:1]).feed([the]) == "the"
    shown = Detokenizer(tokenizer, prompt[:1], skip_special_tokens=False)
    assert shown.feed([the]) == " the"


def test_only_one_space_is_dropped(load: Load) -> None:
    """And only at the very beginning."""
    tokenizer = load("sentencepiece")
    ids = tokenizer.encode("  the the", False)
    text = Detokenizer(tokenizer)
    assert " the the" == "".join(text.feed([token_id]) for token_id in ids)


@pytest.mark.parametrize("kind", ["bytelevel", "sentencepiece"])
def test_character_comes_whole(load: Load, kind: Kind) -> None:
    """With its last byte, not before."""
    tokenizer = load(kind)
    ids = tokenizer.encode("\U0001f4bb", False)[-4:]
    text = Detokenizer(tokenizer, tokenizer.encode("a", False))
    assert ["", "", "", "\U0001f4bb", ""] == [*(text.feed([at]) for at in ids), text.flush()]


@pytest.mark.parametrize(
    ("kind", "rest"), [("bytelevel", "\ufffd"), ("sentencepiece", "\ufffd" * 3)]
)
def test_flush_gives_what_never_became_a_character(load: Load, kind: Kind, rest: str) -> None:
    """One U+FFFD as UTF-8 decoders do it, or one a byte as SentencePiece does; and only once."""
    tokenizer = load(kind)
    ids = tokenizer.encode("\U0001f4bb", False)[-4:-1]
    text = Detokenizer(tokenizer, tokenizer.encode("a", False))
    assert ("", rest, "") == (text.feed(ids), text.flush(), text.flush())
    assert tokenizer.decode(ids, True) == rest


def test_broken_run_keeps_its_first_characters(load: Load) -> None:
    """They were sent already; the tokenizer would take them back."""
    tokenizer = load("sentencepiece")
    ids = byte_ids(tokenizer, "\u4e16".encode() + b"\xff\x41")
    text = Detokenizer(tokenizer, tokenizer.encode("a", False))
    assert ["", "", "\u4e16", "\ufffd", "\ufffd"] == [text.feed([token_id]) for token_id in ids]
    assert text.flush() == ""
    assert tokenizer.decode(ids, True) == "\ufffd" * 5


@pytest.mark.parametrize("kind", ["bytelevel", "sentencepiece"])
def test_special_tokens(load: Load, kind: Kind) -> None:
    """Skipped or shown; a marker of parsers is no special token."""
    tokenizer = load(kind)
    ids = tokenizer.encode("<think>a<|im_end|>b", False)
    assert Detokenizer(tokenizer).feed(ids) == "<think>ab"
    assert Detokenizer(tokenizer, skip_special_tokens=False).feed(ids) == "<think>a<|im_end|>b"


@pytest.mark.parametrize("kind", ["bytelevel", "sentencepiece"])
def test_skipped_token_does_not_part_a_character(load: Load, kind: Kind) -> None:
    """As in the tokenizer, which drops it before it decodes."""
    tokenizer = load(kind)
    ids = tokenizer.encode("\U0001f4bb", False)[-4:]
    ids.insert(2, min(tokenizer.eos_ids))
    assert Detokenizer(tokenizer, [ids[0]]).feed(ids[1:]) == "\U0001f4bb"


@pytest.mark.parametrize("kind", ["bytelevel", "sentencepiece"])
def test_unknown_ids_give_nothing(load: Load, kind: Kind) -> None:
    """Models have more rows than the tokenizer has tokens."""
    tokenizer = load(kind)
    text = Detokenizer(tokenizer, tokenizer.encode("a", False))
    assert (text.feed([tokenizer.n_vocab, -1, 10**9]), text.flush()) == ("", "")


@pytest.mark.parametrize("kind", ["bytelevel", "sentencepiece"])
def test_long_run_of_broken_bytes_costs_no_more(load: Load, kind: Kind) -> None:
    """20,000 tokens of one bad byte: each is decoded once."""
    tokenizer = load(kind)
    bad = tokenizer.encode("\U0001f4bb", False)[-1]
    text = Detokenizer(tokenizer, tokenizer.encode("a", False))
    start_s = time.process_time()
    n_chars = sum(len(text.feed([bad])) for _ in range(20_000))
    assert n_chars == 20_000
    assert time.process_time() - start_s < 1.0

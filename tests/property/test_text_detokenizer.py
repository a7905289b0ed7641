"""Text comes out the same however its token ids were split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sim.small_tokenizer import write_small_tokenizer
from app.text.detokenizer import Detokenizer
from app.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text("ab \n\u00e9\u4e16\u0935\u093f\U0001f469\u200d\U0001f4bb\ufffd\u2581", max_size=20),
    st.sampled_from(["<|im_end|>", "<think>", "</tool_call>", "<|im_start|>\n", "<s>", "  "]),
)
CUTS = st.lists(st.integers(0, 60), max_size=20)
SEEDS = st.lists(st.one_of(st.integers(0, 10**6), st.integers(0, 300)), max_size=12)


@pytest.fixture(scope="module", params=["bytelevel", "sentencepiece"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """The small tokenizer of each kind."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    write_small_tokenizer(folder, kind=request.param)
    return Tokenizer.load(folder)


def split(ids: Sequence[int], cuts: list[int]) -> list[Sequence[int]]:
    """Cuts a list of ids at these places."""
    places = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    return [ids[start:end] for start, end in pairwise(places)]


def make_ids(tokenizer: Tokenizer, texts: list[str], seeds: list[int]) -> list[int]:
    """Ids of texts, and between them any ids at all: half characters, unknown ones, special."""
    ids = [token_id for text in texts for token_id in tokenizer.encode(text, False)]
    for seed in seeds:
        ids.insert(seed % (len(ids) + 1), seed % (tokenizer.n_vocab + 5))
    return ids


def in_pieces(text: Detokenizer, parts: Sequence[Sequence[int]]) -> str:
    """What all the parts give, and the end."""
    return "".join(map(text.feed, parts)) + text.flush()


@given(st.lists(TEXTS, max_size=4), SEEDS, CUTS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_split_gives_the_same_text(
    tokenizer: Tokenizer, texts: list[str], seeds: list[int], cuts: list[int], skips: bool
) -> None:
    """In one piece, cut anywhere, or token by token."""
    ids = make_ids(tokenizer, texts, seeds)
    results = {
        in_pieces(Detokenizer(tokenizer, skip_special_tokens=skips), parts)
        for parts in (split(ids, []), split(ids, cuts), [[token_id] for token_id in ids])
    }
    assert len(results) == 1


@given(st.lists(TEXTS, max_size=3), st.lists(TEXTS, max_size=4), SEEDS, CUTS, st.booleans())
@settings(max_examples=500, deadline=None)
def test_pieces_joined_are_the_whole_decoding(
    tokenizer: Tokenizer,
    before: list[str],
    texts: list[str],
    seeds: list[int],
    cuts: list[int],
    skips: bool,
) -> None:
    """After a prompt of text: what decoding prompt and answer together adds to the prompt."""
    prompt = make_ids(tokenizer, before, [])
    ids = make_ids(tokenizer, texts, seeds)
    whole, n_before = [*prompt, *ids], len(tokenizer.decode(prompt, skips))
    text = Detokenizer(tokenizer, prompt, skip_special_tokens=skips)
    got = in_pieces(text, split(ids, cuts))
    by_runs, is_broken = decode_runs(tokenizer, whole, skips=skips)
    # The tokenizer would give up the characters too that a broken run of bytes begins with.
    expected = by_runs if is_broken else tokenizer.decode(whole, skips)
    assert expected[n_before:] == got


def decode_runs(tokenizer: Tokenizer, ids: list[int], *, skips: bool) -> tuple[str, bool]:
    """Decodes run by run of byte tokens, and tells whether one broke after a character."""
    texts, n_kept_in_broken = [], 0
    tokens = (tokenizer.token(token_id) for token_id in ids)
    special = {tokenizer.token(token_id) for token_id in tokenizer.special_ids} if skips else set()
    visible = [token for token in tokens if token is not None and token not in special]
    for is_bytes, group in groupby(visible, lambda token: token.startswith("<0x")):
        if not is_bytes:
            texts += [token.replace("\u2581", " ") for token in group]
            continue
        run = bytes(int(token[3:5], 16) for token in group)
        try:
            texts.append(run.decode())
        except UnicodeDecodeError as fault:
            n_kept_in_broken += fault.start
            texts.append(run[: fault.start].decode() + REPLACEMENT * (len(run) - fault.start))
    return "".join(texts).removeprefix(" "), n_kept_in_broken > 0


@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_prompt_may_end_inside_of_a_character(
    tokenizer: Tokenizer, texts: list[str], n_answered: int
) -> None:
    """The character is completed by the answer and belongs to it, whole."""
    ids = tokenizer.encode("".join([*texts, "\U0001f4bb"]), False)
    prompt, answer = ids[:-n_answered], ids[-n_answered:]
    expected = tokenizer.decode(ids, False)
    text = Detokenizer(tokenizer, prompt, skip_special_tokens=False)
    assert "\U0001f4bb" == in_pieces(text, [answer])
    assert expected.endswith("\U0001f4bb")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_piece_has_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    """Text without U+FFFD never gives one on the way, and nothing is left at the end."""
    text = text.replace(REPLACEMENT, "")
    decoded = Detokenizer(tokenizer, tokenizer.encode("A:", True))
    pieces = [decoded.feed([token_id]) for token_id in tokenizer.encode(f"A:{text}", True)]
    assert REPLACEMENT not in "".join(pieces)
    assert decoded.flush() == ""

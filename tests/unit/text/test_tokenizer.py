"""Loading a tokenizer and what it knows."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders

from app.errors import InvalidRequest
from app.sim.small_tokenizer import Kind, write_small_tokenizer
from app.text.detokenizer import Detokenizer
from app.text.tokenizer import Tokenizer
from app.text.tokenizer_files import TokenizerNotLoaded

KINDS: list[Kind] = ["bytelevel", "sentencepiece"]
TEXTS = [
    "Hello, how is the weather in Paris?",
    " two  spaces \n\n\t x ",
    "\u4e16\u754c \u0935\u093f \U0001f469\u200d\U0001f4bb \u00e9 \u0000 \ufffd",
    "<|im_start|>user\nHi<|im_end|>\n<think>x</think><tool_call>",
    "<s>Hi</s>",
    "",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of the bytelevel kind."""
    write_small_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document |= fields
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


@pytest.mark.parametrize("kind", KINDS)
def test_same_as_transformers(tmp_path: Path, kind: Kind) -> None:
    """Ids with and without special tokens, text, special ids, prompt of a chat."""
    write_small_tokenizer(tmp_path, kind=kind)
    tokenizer = Tokenizer.load(tmp_path)
    oracle: Any = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        for adds in (True, False):
            ids = tokenizer.encode(text, adds)
            assert oracle.encode(text, add_special_tokens=adds) == ids
            for skips in (True, False):
                expected = oracle.decode(ids, skip_special_tokens=skips)
                assert expected == tokenizer.decode(ids, skips)
    special = {at for at, token in oracle.added_tokens_decoder.items() if token.special}
    assert special == tokenizer.special_ids
    assert oracle.bos_token_id == tokenizer.bos_id
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.chat is not None
    assert oracle.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    ) == tokenizer.chat.render(chat)


def test_facts(folder: Path) -> None:
    """EOS ids are the union of three files; other facts come from where they stand."""
    tokenizer = Tokenizer.load(folder)
    ids = {text: tokenizer.token_id(text) for text in ("<|im_end|>", "<|endoftext|>", "<think>")}
    assert {ids["<|im_end|>"], ids["<|endoftext|>"]} == tokenizer.eos_ids
    assert ids["<think>"] not in tokenizer.special_ids
    assert (4096, None) == (tokenizer.max_length, tokenizer.bos_id)
    change(folder / "config.json", eos_token_id=3, vocab_size=5000, max_position_embeddings=None)
    change(folder / "generation_config.json", eos_token_id=[4])
    change(folder / "tokenizer_config.json", model_max_length=10**30, eos_token="<think>")
    changed = Tokenizer.load(folder)
    assert {3, 4, ids["<think>"]} == changed.eos_ids
    assert (None, 5000) == (changed.max_length, changed.n_vocab)
    change(folder / "config.json", text_config={"eos_token_id": [5], "max_position_embeddings": 9})
    assert (9, True) == (Tokenizer.load(folder).max_length, 5 in Tokenizer.load(folder).eos_ids)


@pytest.mark.parametrize("old_form", [True, False])
def test_tokens_of_the_other_files(folder: Path, old_form: bool) -> None:
    """Added tokens that tokenizer.json lacks get the ids that transformers gives them."""
    added = {
        "1047": {"content": "<new>", "special": False},
        "1040": {"content": "<|endoftext|>", "special": False, "normalized": False},
    }
    change(folder / "special_tokens_map.json", sep_token="<sep>")
    change(
        folder / "tokenizer_config.json",
        added_tokens_decoder=None if old_form else added,
        image_token="<image>",
        additional_special_tokens=["<a>", "<b>"],
    )
    tokenizer = Tokenizer.load(folder)
    oracle: Any = transformers.AutoTokenizer.from_pretrained(str(folder))
    text = "<new> <sep> <image> <a><b>"
    assert oracle.encode(text) == tokenizer.encode(text, True)
    assert set(oracle.get_added_vocab()) == set(tokenizer.added_tokens.values())
    special = {at for at, token in oracle.added_tokens_decoder.items() if token.special}
    assert special == tokenizer.special_ids


def test_padding_and_cutting_are_off(folder: Path) -> None:
    """Whatever tokenizer.json asks for."""
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_padding(length=64)
    rust.enable_truncation(3)
    rust.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    text = "Please explain in simple words how the weather will be."
    ids = tokenizer.encode(text, True)
    assert (text, True) == (tokenizer.decode(ids, False), 3 < len(ids) < 64)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token(tmp_path: Path, kind: Kind) -> None:
    """Text and bytes of tokens in the middle of a text, which add up to it."""
    write_small_tokenizer(tmp_path, kind=kind)
    tokenizer = Tokenizer.load(tmp_path)
    text = "Hello the \u4e16 <|im_end|>"
    ids = tokenizer.encode(text, False)
    assert text == b"".join(map(tokenizer.token_bytes, ids)).decode().strip()
    assert " the" in [tokenizer.token_text(token_id) for token_id in ids]
    assert "\ufffd" in [tokenizer.token_text(token_id) for token_id in ids]
    assert tokenizer.token_text(tokenizer.n_vocab + 7) == ""


def test_half_a_surrogate_pair_is_the_clients_fault(folder: Path) -> None:
    """It cannot be encoded by anyone."""
    with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
        Tokenizer.load(folder).encode("a\ud83d", False)


def test_other_decoders_have_no_table(folder: Path) -> None:
    """Decoded by the library, piece by piece the same as at once."""
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    rust.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.piece_table(skip_special_tokens=True) is None
    ids = [*tokenizer.encode("the weather", False), *sorted(tokenizer.added_tokens)]
    for skips in (True, False):
        text = Detokenizer(tokenizer, skip_special_tokens=skips)
        pieces = [text.feed([token_id]) for token_id in ids]
        assert tokenizer.decode(ids, skips) == "".join(pieces) + text.flush()
    special = sorted(tokenizer.special_ids)[:2]
    assert tokenizer.decode(special, False) == "<|endoftext|> <|im_start|>"
    assert tokenizer.decode(special, False, False) == "<|endoftext|><|im_start|>"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer: "),
        ("tokenizer.json", None, "has no tokenizer.json and none of "),
        ("config.json", "[]", "config.json does not hold a JSON object"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read: "),
        ("chat_template.jinja", b"\xff", "chat_template.jinja cannot be read: "),
        ("chat_template.json", '{"chat_template": [1]}', "no text and no list of them"),
    ],
)
def test_broken_folder(folder: Path, name: str, content: str | bytes | None, words: str) -> None:
    """One sentence with the folder and the file."""
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerNotLoaded) as caught:
        Tokenizer.load(folder)
    assert str(folder) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("source", ["no/such/folder", "/no/such/folder", "a b"])
def test_source_that_is_nothing(source: str) -> None:
    """Neither a folder nor a hub id."""
    with pytest.raises(TokenizerNotLoaded, match="is neither a folder nor a hub id"):
        Tokenizer.load(source)


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sentence names the model and why it could not be had."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TokenizerNotLoaded, match=r"^The tokenizer a/b is no folder and .* hub: "):
        Tokenizer.load("a/b")


def test_vocabulary_and_merges_are_converted(folder: Path) -> None:
    """The older form of byte-level tokenizers, through transformers."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    text = "Hello, how is the weather?"
    expected = Tokenizer.load(folder).encode(text, False)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    change(folder / "config.json", model_type="gpt2")
    assert expected == Tokenizer.load(folder).encode(text, False)


def test_tiktoken_is_converted(tmp_path: Path) -> None:
    """The file that Llama 3 came with, through transformers."""
    words = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the"]
    lines = [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words)]
    (tmp_path / "tiktoken.model").write_text("\n".join(lines))
    change(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    tokenizer = Tokenizer.load(tmp_path)
    text = "the cat, the \u4e16"
    ids = tokenizer.encode(text, False)
    assert (text, 257, 258) == (tokenizer.decode(ids, False), ids[0], ids[6])


def test_sentencepiece_model_is_converted(folder: Path) -> None:
    """The file that Llama 2 came with, through transformers: same ids as SentencePiece's own."""
    text = "the weather in Paris and the weather in London is good today "
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 10),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", eos_token="</s>")
    change(folder / "tokenizer_config.json", bos_token="<s>", unk_token="<unk>", pad_token=None)
    tokenizer = Tokenizer.load(folder)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for sample in ("the weather", "Paris is \u4e16 good"):
        ids = tokenizer.encode(sample, False)
        assert (oracle.encode(sample), sample) == (ids, tokenizer.decode(ids, False))
    assert tokenizer.bos_id == 1
    assert 2 in tokenizer.eos_ids


def test_files_that_cannot_be_converted(tmp_path: Path) -> None:
    """Still one sentence about the folder."""
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01nothing")
    with pytest.raises(TokenizerNotLoaded, match="could not be converted") as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_gateway_does_not_import_transformers(folder: Path) -> None:
    """It costs a second and 50 MiB; loading a tokenizer and rendering do without."""
    script = (
        "import sys; from app.text.tokenizer import Tokenizer;"
        f"t = Tokenizer.load({str(folder)!r});"
        "t.chat.render([{'role': 'user', 'content': 'x'}]);"
        "t.encode('x', True);"
        "sys.exit(bool({'transformers', 'huggingface_hub', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path.cwd())
    assert done.returncode == 0


def test_small_tokenizer_is_the_same_every_time(tmp_path: Path) -> None:
    """Two processes write the same bytes."""
    write_small_tokenizer(tmp_path / "a", kind="sentencepiece")
    script = (
        "from pathlib import Path; from app.sim.small_tokenizer import write_small_tokenizer;"
        f"write_small_tokenizer(Path({str(tmp_path / 'b')!r}), kind='sentencepiece')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path.cwd())
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {
        "tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"
    }  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    shutil.rmtree(tmp_path / "b")

"""Making the tokenizer itself of a model's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from app.text.tokenizer_files import TokenizerFiles, TokenizerNotLoaded

# What transformers can make a tokenizer of.
_OLDER_FILES = ("*.model*", "vocab.json", "vocab.txt", "*.tiktoken", "tekken.json")


def read_rust_tokenizer(files: TokenizerFiles) -> RustTokenizer:
    """Reads tokenizer.json, or converts older files, and adds what the other files know.

    Raises:
        TokenizerNotLoaded: Nothing to read, or it is broken or cannot be converted.
    """
    tokenizer = _read(files.folder)
    _add_tokens(tokenizer, files)
    # Some files ask for padding or cutting; prompts are neither padded nor cut.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(folder: Path) -> RustTokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        return _convert(folder)
    try:
        return RustTokenizer.from_file(str(path))
    except Exception as fault:  # the library raises bare Exception
        raise TokenizerNotLoaded(f"{path} is no tokenizer: {fault}.") from fault


def _convert(folder: Path) -> RustTokenizer:
    """Makes a tokenizer of older files (vocab.json, tokenizer.model, tiktoken)."""
    found = [path for pattern in _OLDER_FILES for path in folder.glob(pattern)]
    if not found:  # transformers would make an empty tokenizer without a word
        raise TokenizerNotLoaded(
            f"{folder} has no tokenizer.json and none of {', '.join(_OLDER_FILES)}."
        )
    import transformers  # noqa: PLC0415 - takes a second, and only older models need it

    try:
        made = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        tokenizer: Any = made.backend_tokenizer
    except Exception as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise TokenizerNotLoaded(
            f"{folder} has no tokenizer.json, and its other files could not be converted: {reason}"
        ) from fault
    if not isinstance(tokenizer, RustTokenizer):
        raise TokenizerNotLoaded(f"{folder} has no tokenizer.json and none can be made of it.")
    return tokenizer


def _add_tokens(tokenizer: RustTokenizer, files: TokenizerFiles) -> None:
    """Adds what only tokenizer_config.json knows, in the order of transformers."""
    known = tokenizer.get_added_tokens_decoder()
    named = files.special_tokens().values()
    listed = files.tokenizer_config.get("added_tokens_decoder") or {}
    wanted = {}
    for at, fields in sorted(listed.items(), key=lambda item: int(item[0])):
        token = AddedToken(**fields)
        if repr(known.get(int(at))) != repr(token):
            token.special = token.special or token.content in named
            wanted[token.content] = token
    contents = {token.content for token in known.values()} | wanted.keys()
    for text in (*named, *files.extra_special_tokens()):
        if text not in contents:
            wanted.setdefault(text, AddedToken(text, special=True))
    tokenizer.add_tokens(list(wanted.values()))

"""The files a tokenizer is made from: finding them, reading them, what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.protocol.wire_json import JsonObject

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_PATTERNS = (
    "*.json", "*.jinja", "*.model", "*.model.v*", "*.tiktoken", "merges.txt", "vocab.txt",
    "additional_chat_templates/*",
)  # fmt: skip
_HUB_IGNORED = ("*.index.json", "*safetensors*", "onnx/*", "original/*")
_HUB_TIMEOUT_S = 10.0
_NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# transformers writes 1e30 for "no limit".
_NO_LIMIT = 10**12


class TokenizerNotLoaded(ValueError):
    """The tokenizer cannot be used; the text is one sentence that says which and why."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A folder and its JSON files; a missing file is an empty object."""

    folder: Path
    config: JsonObject
    generation_config: JsonObject
    tokenizer_config: JsonObject
    special_tokens_map: JsonObject

    def special_tokens(self) -> dict[str, str]:
        """Names templates know (``bos_token``) to what they stand for."""
        sources = [self.special_tokens_map] if self._is_old_form() else []
        texts = {
            name: text
            for source in (self.tokenizer_config, *sources)
            for name, value in source.items()
            if name.endswith("_token") and (text := _token_text(value)) is not None
        }
        named = [f"{name}_token" for name in _NAMED_TOKENS]
        return dict(sorted(texts.items(), key=lambda item: item[0] not in named))

    def extra_special_tokens(self) -> list[str]:
        """Further special tokens that have no name."""
        values = [
            self.tokenizer_config.get("extra_special_tokens")
            or self.tokenizer_config.get("additional_special_tokens")
        ]
        if self._is_old_form():
            values.append(self.special_tokens_map.get("additional_special_tokens"))
        items = [item for value in values if value for item in _items(value)]
        return [text for item in items if (text := _token_text(item)) is not None]

    def eos_ids(self) -> Iterator[int]:
        """The ids that config.json and generation_config.json call end of sequence."""
        for source in (self.config, self._text_config(), self.generation_config):
            value = source.get("eos_token_id")
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int) and not isinstance(item, bool):
                    yield item

    def max_length(self) -> int | None:
        """Tokens the model can take, the largest of what the files say; None if they don't.

        A worker that reports its own limit knows better.
        """
        values = [
            self.tokenizer_config.get("model_max_length"),
            self.config.get("max_position_embeddings"),
            self._text_config().get("max_position_embeddings"),
        ]
        limits = [
            int(value)
            for value in values
            if isinstance(value, int | float) and 0 < value < _NO_LIMIT
        ]
        return max(limits, default=None)

    def vocabulary_size(self) -> int:
        """Rows of the model's output layer, 0 if config.json does not say."""
        values = [source.get("vocab_size") for source in (self.config, self._text_config())]
        return max((value for value in values if isinstance(value, int)), default=0)

    def _text_config(self) -> JsonObject:
        """Models for more than text keep the language model's facts one level down."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else {}

    def _is_old_form(self) -> bool:
        """As transformers: the token map counts only where the newer table is missing."""
        return "added_tokens_decoder" not in self.tokenizer_config


def read_files(folder: Path) -> TokenizerFiles:
    """Reads the JSON files of a folder, as far as they exist.

    Raises:
        TokenizerNotLoaded: A file is not a JSON object.
    """
    return TokenizerFiles(
        folder,
        *(
            read_json(folder / f"{name}.json")
            for name in ("config", "generation_config", "tokenizer_config", "special_tokens_map")
        ),
    )


def read_json(path: Path) -> JsonObject:
    """Reads a JSON object; an empty one if there is no such file."""
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as fault:
        raise TokenizerNotLoaded(f"{path} cannot be read: {fault}.") from fault
    if not isinstance(document, dict):
        raise TokenizerNotLoaded(f"{path} does not hold a JSON object.")
    return document


def find_folder(source: str) -> Path:
    """Returns a folder as it is; downloads the tokenizer's files of a hub id.

    Raises:
        TokenizerNotLoaded: There is no such folder, and no such model can be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(source):
        raise TokenizerNotLoaded(f"The tokenizer {source} is neither a folder nor a hub id.")
    import huggingface_hub as hub  # noqa: PLC0415 - slow to import, and seldom needed

    try:
        return Path(
            hub.snapshot_download(
                source,
                allow_patterns=list(_HUB_PATTERNS),
                ignore_patterns=list(_HUB_IGNORED),
                etag_timeout=_HUB_TIMEOUT_S,
            )
        )
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as fault:
        reason = str(fault).strip().partition("\n")[0].rstrip(".")
        raise TokenizerNotLoaded(
            f"The tokenizer {source} is no folder and could not be had from the hub: {reason}."
        ) from fault


def _token_text(value: Any) -> str | None:
    """A token is given as text, or as an object that holds it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()

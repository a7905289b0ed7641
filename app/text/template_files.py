"""Where a chat template comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from app.protocol.wire_json import JsonObject
from app.text.tokenizer_files import TokenizerNotLoaded, read_json

DEFAULT = "default"
_JINJA_SIGNS = ("{{", "{%", "{#")


def read_templates(
    folder: Path, tokenizer_config: JsonObject, chosen: str | None
) -> dict[str, str]:
    """Returns templates by name; the usual one is ``default``. Empty if there is none.

    The first of these that exists: the operator's choice; chat_template.jinja with the
    folder additional_chat_templates/; chat_template.json; tokenizer_config.json, one
    template or a list of named ones; the only other ``*.jinja`` file.

    Args:
        folder: The model's files.
        tokenizer_config: Its tokenizer_config.json.
        chosen: A file, a template's text, or the name of one of the model's templates.

    Raises:
        TokenizerNotLoaded: The choice is none of the three, or a file is malformed.
    """
    found = _in_own_files(folder) or _in_config(folder, tokenizer_config) or _in_any_file(folder)
    return found if chosen is None else {DEFAULT: _choose(chosen, found)}


def _choose(chosen: str, found: Mapping[str, str]) -> str:
    if any(sign in chosen for sign in _JINJA_SIGNS):
        return chosen
    if chosen in found:
        return found[chosen]
    path = Path(chosen).expanduser()
    if not path.is_file():
        raise TokenizerNotLoaded(
            f"The chat template {chosen} is no file, no name of a template of the model"
            f" ({', '.join(sorted(found)) or 'it has none'}) and no template text."
        )
    return _read_text(path)


def _in_own_files(folder: Path) -> dict[str, str]:
    named = {
        path.stem: _read_text(path)
        for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))
    }
    path = folder / "chat_template.jinja"
    return {**({DEFAULT: _read_text(path)} if path.is_file() else {}), **named}


def _in_config(folder: Path, tokenizer_config: JsonObject) -> dict[str, str]:
    path = folder / "chat_template.json"
    value = read_json(path).get("chat_template")
    if value is None:
        path, value = folder / "tokenizer_config.json", tokenizer_config.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    try:
        named = {item["name"]: item["template"] for item in value}
    except (TypeError, KeyError):
        named = {}
    if not named or not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise TokenizerNotLoaded(
            f"{path} holds a chat_template that is no text and no list of them."
        )
    return named


def _in_any_file(folder: Path) -> dict[str, str]:
    paths = sorted(folder.glob("*.jinja"))
    return {DEFAULT: _read_text(paths[0])} if len(paths) == 1 else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise TokenizerNotLoaded(f"The chat template {path} cannot be read: {fault}.") from fault
